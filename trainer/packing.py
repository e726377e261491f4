"""Several demonstrations in one row, none of which sees another.

A packed row is a row of segments (``stack.Padded``): attention stays inside a segment, positions
start over in each, and its first token is never predicted. So a packed batch gives the loss and
the gradient of the same examples in rows of their own, with less padding.
"""

from collections.abc import Iterator, Sequence

import torch

from trainer.data import Check, Example, ExampleBatch, batch_examples, go_on, own_micro_batches
from trainer.padded import pad, pad_segments
from trainer.sharding import Idle


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Items in rows of at most ``capacity``: the longest first, each in the first row with room.

    An item over the capacity has a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    open_rows: list[int] = []
    shortest = min(lengths, default=0)
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((row for row in open_rows if room[row] >= lengths[item]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
            open_rows.append(row)
        rows[row].append(item)
        room[row] -= lengths[item]
        if room[row] < shortest:
            open_rows.remove(row)
    return rows


def batch_packed(
    rows: Sequence[Sequence[Example]], pad_id: int, device: torch.device
) -> ExampleBatch:
    """Rows of examples side by side, padded on the right; plain where no row has two."""
    if all(len(row) == 1 for row in rows):
        return batch_examples([row[0] for row in rows], pad_id, device)
    tokens = pad_segments([[[], *(example.ids for example in row)] for row in rows], pad_id, device)
    marks = [[int(mark) for example in row for mark in example.learned] for row in rows]
    return ExampleBatch(tokens, pad(marks, 0, device).ids.bool())


def example_batches(
    examples: Sequence[Example],
    pad_id: int,
    micro_tokens: int,
    device: torch.device,
    *,
    pack_tokens: int | None = None,
    idle: Idle = None,
    check: Check = go_on,
) -> Iterator[ExampleBatch]:
    """Micro-batches of at most ``micro_tokens`` padded tokens; together they hold every example,
    those of all processes where there are several. ``idle`` and ``check`` as in
    ``own_micro_batches``.

    With ``pack_tokens`` examples share rows of at most that many tokens.
    """
    lengths = [len(example.ids) for example in examples]
    if pack_tokens is None:
        rows = [[i] for i in range(len(examples))]
    else:
        rows = first_fit(lengths, min(pack_tokens, micro_tokens))
    widths = [sum(lengths[i] for i in row) for row in rows]
    for group in own_micro_batches(widths, micro_tokens, idle=idle, check=check):
        yield batch_packed([[examples[i] for i in rows[row]] for row in group], pad_id, device)
