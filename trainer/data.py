"""Snapshots to token sequences, and token sequences to batches.

The train split trains and the valid split measures; the test split is never read here. A ranking
stays one item. What is too long is left out and counted.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from trainer import distributed
from trainer.config import TrainOn
from trainer.errors import DataError, IntegrityError
from trainer.padded import Padded, pad, pad_segments
from trainer.records import (
    ROWS,
    ComparisonRow,
    DemonstrationRow,
    Output,
    PromptRow,
    SnapshotKind,
    read_manifest,
    read_rows,
)
from trainer.sharding import Idle
from trainer.text import Codec

Row = TypeVar("Row", DemonstrationRow, ComparisonRow, PromptRow)
Item = TypeVar("Item")

Check = Callable[[], None]
"""Asks between passes whether to go on; raises if not."""


def go_on() -> None:
    """A check that never objects."""


class Example(NamedTuple):
    """A prompt and one completion, as token ids."""

    prompt: list[int]
    completion: list[int]  # ends with the end token unless it was cut
    turns: tuple[tuple[int, int], ...] = ()  # [start, stop) of the prompt's parts learned too

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def learned(self) -> list[bool]:
        """Of each token whether it is a target; the first never is, as nothing foretells it."""
        marks = [False] * len(self.prompt) + [True] * len(self.completion)
        for start, stop in self.turns:
            marks[start:stop] = [True] * (stop - start)
        return [False, *marks[1:]]


class Ranking(NamedTuple):
    """A prompt with K completions and the rank of each: 0 is best, equal is a tie."""

    answers: list[Example]
    ranks: list[int]
    strength: float | None = None
    use_case: str = ""
    confidence: float | None = None
    labeler_group: str | None = None

    @property
    def tokens(self) -> int:
        """Of the prompt, once, and of all answers."""
        return len(self.answers[0].prompt) + sum(len(a.completion) for a in self.answers)


class Prompt(NamedTuple):
    """A prompt to answer."""

    id: str
    ids: list[int]
    row: PromptRow


class Splits(NamedTuple, Generic[Item]):
    """What is learned from and what is measured on; notes say what was left out."""

    train: list[Item]
    valid: list[Item]
    notes: tuple[str, ...]


def read_snapshot(folder: str | Path, kind: SnapshotKind, cls: type[Row]) -> list[Row]:
    """Rows of a finished snapshot, every hash checked, without the test split.

    IntegrityError if it is unfinished, altered or of another kind; DataError, naming line and
    field, if a row is malformed or nothing is there to train on.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, verify=True)
    if manifest.kind != kind:
        raise IntegrityError(f"{folder} is a snapshot of {manifest.kind}; this needs {kind}.")
    if ROWS not in manifest.files:
        raise IntegrityError(f"The manifest of {folder} does not name {ROWS}.")
    rows = [row for row in read_rows(folder / ROWS, cls) if row.split != "test"]
    if not any(row.split == "train" for row in rows):
        raise DataError(f"{folder} has no {kind} in the train split: there is nothing to learn.")
    return rows


def load_demonstrations(
    folder: str | Path, codec: Codec, max_tokens: int, *, train_on: TrainOn = "response"
) -> Splits[Example]:
    """Demonstrations as token ids, each ending with the end token.

    With ``train_on`` "assistant" the assistant's earlier turns are learned too.
    """
    lost = 0

    def encode(row: DemonstrationRow) -> Example | None:
        nonlocal lost
        turns = codec.assistant_turns(row.prompt) if train_on == "assistant" else []
        example = Example(
            codec.encode_prompt(row.prompt),
            codec.encode_completion(row.completion, ended=True),
            tuple(turn for turn in turns if turn is not None),
        )
        if not example.completion or len(example.ids) > max_tokens:
            return None
        lost += turns.count(None)
        return example

    rows = read_snapshot(folder, "demonstrations", DemonstrationRow)
    found = _split([(row.split, encode(row)) for row in rows], "demonstrations", max_tokens)
    if lost:
        said = (
            f"{lost} earlier assistant turns were not learned: they answer nobody, or the template"
            " writes them otherwise once they are history."
        )
        found = found._replace(notes=(*found.notes, said))
    return found


def load_rankings(
    folder: str | Path, codec: Codec, max_tokens: int, *, ties: bool = False
) -> Splits[Ranking]:
    """Rankings as token ids, without the answers that were not judged.

    A ranking is left out if fewer than two were judged, or if all are tied unless ``ties`` count.
    """

    def encode(row: ComparisonRow) -> Ranking | None:
        prompt, ranks = codec.encode_prompt(row.prompt), row.ranks()
        answers = [Example(prompt, output_ids(output, codec)) for output in row.judged]
        fits = all(len(answer.ids) <= max_tokens for answer in answers)
        stated = (row.strength, row.use_case, row.confidence, row.labeler_group)
        return Ranking(answers, ranks, *stated) if fits else None

    rows = read_snapshot(folder, "comparisons", ComparisonRow)
    compared = [row for row in rows if len(row.judged) > 1]
    untied = [row for row in compared if ties or len(set(row.ranks())) > 1]
    found = _split([(row.split, encode(row)) for row in untied], "rankings", max_tokens)
    notes = []
    if alone := len(rows) - len(compared):
        notes.append(f"{alone} rankings judged fewer than two answers.")
    if tied := len(compared) - len(untied):
        notes.append(f"{tied} rankings were all ties.")
    return found._replace(notes=(*found.notes, *notes))


def output_ids(output: Output, codec: Codec) -> list[int]:
    """Ids of a ranked output: as they were sampled if they are this tokenizer's, else encoded.

    They are this tokenizer's if it reads the same text from them. Either way the end token is
    there exactly if it was sampled.
    """
    ids = list(output.token_ids)
    known = all(0 <= token < codec.vocab_size for token in ids)
    if ids and known and codec.decode(ids) == output.text:
        return ids
    return codec.encode_completion(output.text, ended=output.finished)


def load_prompts(folder: str | Path, codec: Codec, max_tokens: int) -> Splits[Prompt]:
    """Prompts as token ids."""

    def encode(row: PromptRow) -> Prompt | None:
        ids = codec.encode_prompt(row.prompt)
        return Prompt(row.id, ids, row) if len(ids) <= max_tokens else None

    rows = read_snapshot(folder, "prompts", PromptRow)
    return _split([(row.split, encode(row)) for row in rows], "prompts", max_tokens)


def _split(encoded: Sequence[tuple[str, Item | None]], what: str, max_tokens: int) -> Splits[Item]:
    kept = {
        name: [item for split, item in encoded if split == name and item is not None]
        for name in ("train", "valid")
    }
    if not kept["train"]:
        raise DataError(
            f"None of the {len(encoded)} {what} fits in {max_tokens} tokens: raise the limit."
        )
    skipped = sum(item is None for _, item in encoded)
    notes = (f"{skipped} {what} were longer than {max_tokens} tokens and left out.",)
    return Splits(kept["train"], kept["valid"], notes if skipped else ())


# ---- batches --------------------------------------------------------------------------------


def shuffled(count: int, *key: int) -> list[int]:
    """0 to count - 1 in an order that is a function of ``key`` alone (seed, epoch, ...)."""
    order = list(range(count))
    random.Random(":".join(map(str, key))).shuffle(order)
    return order


def epoch_batches(count: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, the last one shorter if need be."""
    order = shuffled(count, seed, epoch)
    return [order[i : i + batch] for i in range(0, count, batch)]


def batches_by_epoch(count: int, batch: int, seed: int) -> Callable[[int], list[list[int]]]:
    """``epoch_batches`` of an epoch's number; those of the last one asked for are kept."""
    return lru_cache(maxsize=1)(partial(epoch_batches, count, batch, seed))


def micro_batches(
    widths: Sequence[int], limit: int, *, sequences: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Cut items into groups that take at most ``limit`` tokens when padded to one width.

    ``widths`` is the longest sequence of each item and ``sequences`` how many it has (1 if left
    out). Items of like width go together, so little is padded. An item over the limit is alone.
    """
    counts = sequences or [1] * len(widths)
    group: list[int] = []
    rows = 0
    for item in sorted(range(len(widths)), key=lambda i: (-widths[i], i)):
        if group and (rows + counts[item]) * widths[group[0]] > limit:
            yield group
            group, rows = [], 0
        group.append(item)
        rows += counts[item]
    if group:
        yield group


def own_micro_batches(
    widths: Sequence[int],
    limit: int,
    *,
    sequences: Sequence[int] | None = None,
    idle: Idle = None,
    check: Check = go_on,
) -> Iterator[list[int]]:
    """``micro_batches`` of the items that are this process's; alone, of all.

    A process may have none. What is computed from them is to be summed over processes. Where
    ``idle`` is given it is called, after them, as often as another process has more. Before each
    pass there is a ``check``; where passes are made in step, what it raises in one process, all raise.
    """
    counts = sequences or [1] * len(widths)
    tokens = [width * count for width, count in zip(widths, counts, strict=True)]

    def cut(hand: list[int]) -> list[list[int]]:
        parts = [widths[i] for i in hand], [counts[i] for i in hand]
        groups = micro_batches(parts[0], limit, sequences=parts[1])
        return [[hand[i] for i in group] for group in groups]

    mine = cut(distributed.own(tokens))
    if idle is None:
        for group in mine:
            check()
            yield group
        return
    most = max(len(cut(hand)) for hand in distributed.dealt(tokens, distributed.size()))
    for number in range(most):
        with distributed.together():
            check()
        if number < len(mine):
            yield mine[number]
        else:
            idle()


class ExampleBatch(NamedTuple):
    """Sequences with their completions marked."""

    tokens: Padded  # [B, T]
    completion: Tensor  # [B, T] bool, true at completion tokens and what else is learned


def batch_examples(examples: Sequence[Example], pad_id: int, device: torch.device) -> ExampleBatch:
    """Examples side by side, padded on the right."""
    tokens = pad([example.ids for example in examples], pad_id, device)
    marks = [[int(mark) for mark in example.learned] for example in examples]
    return ExampleBatch(tokens, pad(marks, 0, device).ids.bool())


class RankingBatch(NamedTuple):
    """Whole rankings: each of their N answers is run once."""

    tokens: Padded  # one answer a row [N, T], or one ranking a row [B, T], the prompt in common
    last: tuple[Tensor, Tensor]  # [N] row and [N] column of each answer's last token
    ranks: Tensor  # [B, K] long, 0 is best
    mask: Tensor  # [B, K] bool, false where a ranking has fewer than K answers

    def scores(self, values: Tensor) -> Tensor:
        """The scalars of all tokens, shaped as they are, to scores [B, K]; 0 where there is none."""
        found = values[self.last]
        return found.new_zeros(self.mask.shape).masked_scatter(self.mask, found)


def batch_rankings(
    rankings: Sequence[Ranking], pad_id: int, device: torch.device, *, shared: bool
) -> RankingBatch:
    """Rankings side by side; their sizes may differ. ``shared`` runs each prompt once."""
    if shared:
        rows = [[r.answers[0].prompt, *(a.completion for a in r.answers)] for r in rankings]
        tokens = pad_segments(rows, pad_id, device)
        last = [(row, column) for row, parts in enumerate(rows) for column in _ends(parts)]
    else:
        answers = [answer.ids for ranking in rankings for answer in ranking.answers]
        tokens = pad(answers, pad_id, device)
        last = [(row, len(ids) - 1) for row, ids in enumerate(answers)]
    rows_of_last, columns = torch.tensor(last, device=device).unbind(1)
    widest = max(len(ranking.ranks) for ranking in rankings)
    ranks = torch.zeros(len(rankings), widest, dtype=torch.long)
    mask = torch.zeros(len(rankings), widest, dtype=torch.bool)
    for row, ranking in enumerate(rankings):
        ranks[row, : len(ranking.ranks)] = torch.tensor(ranking.ranks)
        mask[row, : len(ranking.ranks)] = True
    return RankingBatch(tokens, (rows_of_last, columns), ranks.to(device), mask.to(device))


def _ends(parts: Sequence[Sequence[int]]) -> list[int]:
    """Column of the last token of each part but the first; an empty one ends where the first does."""
    ends = list(accumulate(map(len, parts)))
    return [(end if part else ends[0]) - 1 for part, end in zip(parts, ends, strict=True)][1:]
