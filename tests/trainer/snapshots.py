"""Small snapshots for the tiny models: demonstrations, rankings, prompts, and running text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.trainer.tiny import TEXT
from trainer.records import (
    ROWS,
    SCHEMA_VERSION,
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

SENTENCES = [part.strip() for part in TEXT.replace("\n", " ").split(".") if part.strip()]


def write_snapshot(folder: Path, kind: SnapshotKind, rows: Sequence[Any]) -> Path:
    """A finished snapshot folder."""
    digest = write_atomic(folder / ROWS, map(row_line, rows))
    write_manifest(folder, Manifest(SCHEMA_VERSION, kind, folder.name, len(rows), {ROWS: digest}))
    return folder


def question(i: int) -> tuple[Message, ...]:
    words = SENTENCES[i % len(SENTENCES)].split()
    return (Message("user", " ".join(words[: 3 + i % 4])),)


def split_of(i: int) -> Split:
    return "test" if i % 8 == 7 else "valid" if i % 4 == 3 else "train"


def prompt_row(i: int, **changes: Any) -> PromptRow:
    plain: dict[str, Any] = {
        "id": f"p{i}",
        "prompt": question(i),
        "split": split_of(i),
        "kind": "plain",
        "use_case": "brainstorming",
    }
    return PromptRow(**plain | changes)


def demonstration_row(i: int, **changes: Any) -> DemonstrationRow:
    plain: dict[str, Any] = {
        "id": f"d{i}",
        "prompt_id": f"p{i}",
        "prompt": question(i),
        "completion": SENTENCES[(i + 1) % len(SENTENCES)] + ".",
        "split": split_of(i),
        "kind": "plain",
        "use_case": "brainstorming",
        "source": "labeler",
        "labeler": "someone",
        "labeler_group": None,
        "round": 1,
        "instructions_version": 1,
        "active_ms": 1000,
        "confidence": None,
        "simulated": False,
    }
    return DemonstrationRow(**plain | changes)


def output(i: int, text: str, token_ids: Sequence[int] = (), *, finished: bool = True) -> Output:
    return Output(
        id=f"o{i}",
        text=text,
        token_ids=tuple(token_ids),
        finished=finished,
        policy="v1",
        sampling=Sampling(1.0, 0, i, 32),
    )


def comparison_row(i: int, **changes: Any) -> ComparisonRow:
    """A ranking of 2 to 4 answers; the shorter, the better."""
    texts = [" ".join(SENTENCES[(i + j) % len(SENTENCES)].split()[: 2 + 3 * j]) for j in range(4)]
    outputs = tuple(output(j, text) for j, text in enumerate(texts[: 2 + i % 3]))
    plain: dict[str, Any] = {
        "id": f"c{i}",
        "task_id": f"t{i}",
        "prompt_id": f"p{i}",
        "prompt": question(i),
        "outputs": outputs,
        "shown_order": tuple(o.id for o in outputs),
        "rank_groups": tuple((o.id,) for o in outputs),
        "ratings": None,
        "flags": None,
        "strength": None,
        "confidence": None,
        "labeler": "someone",
        "labeler_group": None,
        "active_ms": 1000,
        "round": 1,
        "instructions_version": 1,
        "split": split_of(i),
        "kind": "plain",
        "use_case": "brainstorming",
        "surplus": False,
        "simulated": False,
    }
    return ComparisonRow(**plain | changes)


def write_all(folder: Path, count: int = 16) -> dict[str, Path]:
    """One snapshot of each kind and a text file, by the name of the setting."""
    text = folder / "text.txt"
    write_atomic(text, [TEXT * 3])
    return {
        "prompts": write_snapshot(
            folder / "prompts", "prompts", [prompt_row(i) for i in range(count)]
        ),
        "demonstrations": write_snapshot(
            folder / "demonstrations",
            "demonstrations",
            [demonstration_row(i) for i in range(count)],
        ),
        "comparisons": write_snapshot(
            folder / "comparisons", "comparisons", [comparison_row(i) for i in range(count)]
        ),
        "pretrain_text": text,
    }
