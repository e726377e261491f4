"""Sequences of tokens side by side: padded to one width, or several in a row."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Padded(NamedTuple):
    """A batch of token sequences, padded to one width.

    With ``segments`` a row holds several sequences, one after the other: a token sees segment 0,
    which is what they have in common and may be empty, and what came before it in its own.
    """

    ids: Tensor  # [B, T] long
    mask: Tensor  # [B, T] bool, true at real tokens
    segments: Tensor | None = None  # [B, T] long, 0, 1, 2, ... in runs; -1 at padding, on the right

    @property
    def positions(self) -> Tensor:
        """[B, T] 0 at the first real token; padding on the right counts on, on the left is 0.

        Every segment but 0 starts where segment 0 ended.
        """
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        if self.segments is not None:
            starts = torch.ones_like(self.mask)
            starts[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
            begun = torch.where(starts, columns, 0).cummax(1).values
            common = (self.segments == 0).sum(1, keepdim=True)
            return columns - begun + torch.where(self.segments == 0, 0, common)
        if self.plain:
            return columns.expand_as(self.ids)
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)

    @property
    def attention_mask(self) -> Tensor | None:
        """What may be looked at: [B, T] or, with segments, [B, 1, T, T].

        None if padding is on the right alone: no real token looks there in a causal model.
        """
        if self.segments is not None:
            seen, sees = self.segments[:, None, :], self.segments[:, :, None]
            return ((seen == 0) | (seen == sees)).tril()[:, None]
        return None if self.plain else self.mask.long()

    @property
    def plain(self) -> bool:
        """Whether each row is one sequence, its padding on the right."""
        return self.segments is None and bool(self.mask[:, 0].all())

    @property
    def waste(self) -> float:
        """The share of padding."""
        return 1 - int(self.mask.sum()) / self.mask.numel()

    @property
    def sequences(self) -> list[Tensor]:
        """Of rows with segments: places among all B x T tokens of what each token of a sequence may
        see at most, segment 0 and one other, in order.
        """
        assert self.segments is not None
        width, found = self.ids.shape[1], []
        for row, numbers in enumerate(self.segments.cpu()):
            counts = torch.bincount(numbers[numbers >= 0])
            common, *own = torch.arange(int(counts.sum())).split(counts.tolist())
            found += [torch.cat([common, each]) + row * width for each in own or [common[:0]]]
        return found

    @property
    def last(self) -> Tensor:
        """[B] column of the last real token."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (self.mask * columns).argmax(1)


def rounded(mask: Tensor) -> Tensor:
    """A mask of real tokens [B, T], with so much padding among them that their number is round: a
    multiple of the power of two that it has 16 to 31 of. So few numbers come up, and what was
    prepared for one, and memory of that size, can be used again.
    """
    flat = mask.flatten().clone()
    count = int(flat.sum())
    padding = (~flat).nonzero()[: -count % (1 << max(0, count.bit_length() - 5)), 0]
    flat[padding] = True
    return flat.view_as(mask)


def pad(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device, *, left: bool = False
) -> Padded:
    """Sequences side by side, padded on the right (or left). The mask is made from lengths."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, columns] = torch.tensor(list(sequence), dtype=torch.long)
        mask[row, columns] = True
    return Padded(ids.to(device), mask.to(device))


def pad_segments(
    rows: Sequence[Sequence[Sequence[int]]], pad_id: int, device: torch.device
) -> Padded:
    """Rows of segments, the common one first (it may be empty), padded on the right."""
    flat = [[token for segment in row for token in segment] for row in rows]
    numbers = [[k for k, segment in enumerate(row) for _ in segment] for row in rows]
    segments = pad(numbers, -1, device).ids
    return pad(flat, pad_id, device)._replace(segments=segments)
