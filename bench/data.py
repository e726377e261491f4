"""Snapshots of random words, of wanted lengths, for any tokenizer; nothing is fetched.

A length is in tokens where a word is one token, as with the benchmark's own tokenizer; with
another it is about that. Figures count the tokens as the trainer itself encodes them.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.records import (
    ROWS,
    SCHEMA_VERSION,
    UNLABELED,
    ComparisonRow,
    DemonstrationRow,
    Manifest,
    Message,
    Output,
    PromptRow,
    Sampling,
    SnapshotKind,
    Split,
    row_line,
    write_atomic,
    write_manifest,
)

PROMPT = (8, 64)  # tokens of a prompt, what the chat template adds included
RANKED = (16, 48)  # of a ranked answer, its end included
WRITTEN = (16, 96)  # of a demonstration
_GOOD = 64  # words that make an answer better


class Author:
    """Writes texts of random words by seed."""

    def __init__(self, codec: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = _words(codec.tokenizer)
        self._added = len(codec.encode_prompt([Message("user", self.words[0])])) - 1

    def prompt(self) -> tuple[Message, ...]:
        """A question of ``PROMPT`` tokens."""
        count = self.random.randint(*PROMPT) - self._added
        return (Message("user", self.text(max(1, count))),)

    def text(self, count: int) -> str:
        """So many words, none of the good ones."""
        return " ".join(self.random.choices(self.words[_good(self.words) :], k=count))

    def answer(self, count: int, good: int) -> str:
        """So many words, ``good`` of them from the good ones, anywhere."""
        chosen = self.text(count).split(" ")
        for place in self.random.sample(range(count), min(good, count)):
            chosen[place] = self.random.choice(self.words[: _good(self.words)])
        return " ".join(chosen)


def _good(words: Sequence[str]) -> int:
    return min(_GOOD, len(words) // 2)


def _words(tokenizer: Any) -> list[str]:
    """Plain words that are one token each, behind a space."""
    special = set(tokenizer.all_special_tokens) | {"user", "assistant", "system"}
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    begun = any(token.startswith(("\u0120", "\u2581")) for token, _ in by_id)
    marked = [token for token, _ in by_id if not begun or token[0] in "\u0120\u2581"]
    bare = [token.lstrip("\u0120\u2581") for token in marked if token not in special]
    words = [word for word in bare if re.fullmatch("[a-z]{2,}", word)]
    if len(words) < 4:
        raise SystemExit("The model's tokenizer has no words that the benchmark could use.")
    return words


# ---- snapshots -----------------------------------------------------------------------------------


def write_snapshot(folder: Path, kind: SnapshotKind, rows: Sequence[Any]) -> Path:
    """A finished snapshot folder."""
    digest = write_atomic(folder / ROWS, map(row_line, rows))
    write_manifest(folder, Manifest(SCHEMA_VERSION, kind, folder.name, len(rows), {ROWS: digest}))
    return folder


class _Kind(NamedTuple):
    """What every row says of its prompt."""

    split: Split
    kind: Any = "plain"
    use_case: str = "other"


def write_prompts(folder: Path, author: Author, count: int) -> Path:
    """Prompts to answer, all of the train split."""
    rows = [PromptRow(f"p{i}", author.prompt(), *_Kind("train")) for i in range(count)]
    return write_snapshot(folder, "prompts", rows)


def write_demonstrations(folder: Path, author: Author, count: int) -> Path:
    """Demonstrations, all of the train split."""
    rows = [
        DemonstrationRow(
            id=f"d{i}",
            prompt_id=f"p{i}",
            prompt=author.prompt(),
            completion=author.text(author.random.randint(*WRITTEN) - 1),
            source="upload",
            simulated=True,
            **UNLABELED,
            **_Kind("train")._asdict(),
        )
        for i in range(count)
    ]
    return write_snapshot(folder, "demonstrations", rows)


def write_rankings(
    folder: Path, author: Author, train: int, valid: int, k: int, lengths: tuple[int, int] = RANKED
) -> Path:
    """Rankings of ``k`` answers, the more good words the better; no ties. ``lengths`` are the
    fewest and the most tokens of an answer.
    """
    rows = [
        _ranking(author, i, "train" if i < train else "valid", k, lengths)
        for i in range(train + valid)
    ]
    return write_snapshot(folder, "comparisons", rows)


def _ranking(
    author: Author, number: int, split: Split, k: int, lengths: tuple[int, int]
) -> ComparisonRow:
    counts = author.random.sample(range(13), k)
    outputs = tuple(
        Output(
            id=f"o{i}",
            text=author.answer(author.random.randint(*lengths) - 1, good),
            token_ids=(),
            finished=True,
            policy="bench",
            sampling=Sampling(1.0, 0, i, lengths[1]),
        )
        for i, good in enumerate(counts)
    )
    best_first = sorted(range(k), key=lambda i: -counts[i])
    return ComparisonRow(
        id=f"c{number}",
        task_id=f"t{number}",
        prompt_id=f"p{number}",
        prompt=author.prompt(),
        outputs=outputs,
        shown_order=tuple(output.id for output in outputs),
        rank_groups=tuple((outputs[i].id,) for i in best_first),
        ratings=None,
        flags=None,
        strength=None,
        confidence=None,
        labeler="bench",
        labeler_group=None,
        active_ms=None,
        round=1,
        instructions_version=None,
        surplus=False,
        simulated=True,
        **_Kind(split)._asdict(),
    )
