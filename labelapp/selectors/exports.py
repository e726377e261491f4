"""What researchers download. Every format is derived from a snapshot's folder, from nothing else.

``native``                  the snapshot's own rows file, byte for byte
``trl-preference``          comparisons as TRL's explicit, conversational preference form: one line
                            per pair of a ranking, ties left out
``arena``                   rankings of two answers as battles, the form of Chatbot Arena: which side
                            won, a tie, or both bad
``trl-prompt-completion``   demonstrations as TRL's conversational prompt-completion form
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labelapp.errors import NotFound, SnapshotMismatch
from labelapp.models import Snapshot
from labelapp.store import snapshot_folder

ROWS = "rows.jsonl"
BLOCK = 256 * 1024
Row = dict[str, Any]


def snapshot_rows_path(snapshot: Snapshot) -> Path:
    """The snapshot's rows file. SnapshotMismatch when it is gone or is not what was frozen."""
    path = snapshot_folder(snapshot.name) / ROWS
    try:
        with path.open("rb") as rows:
            digest = hashlib.file_digest(rows, "sha256").hexdigest()
    except OSError:
        raise SnapshotMismatch(
            _("The files of %(name)s are not in the store; restore its folder from a backup.")
            % {"name": snapshot.name}
        ) from None
    if digest != snapshot.sha256:
        raise SnapshotMismatch(
            _("The rows of %(name)s are not what was frozen; restore its folder from a backup.")
            % {"name": snapshot.name}
        )
    return path


def native(path: Path) -> Iterator[bytes]:
    """The file as it is."""
    with path.open("rb") as rows:
        while block := rows.read(BLOCK):
            yield block


def preference_pairs(row: Row) -> Iterator[Row]:
    """All untied pairs of the judged answers; ``prompt_group`` keeps those of a ranking together.

    ``rank_gap`` is how many groups lie between the two (1: next to each other). Prompt, chosen
    and rejected are lists of messages; the prompt is in neither continuation.
    """
    group_of = {oid: place for place, group in enumerate(row["rank_groups"]) for oid in group}
    judged = [output for output in row["outputs"] if output["id"] in group_of]
    by_rank = sorted(judged, key=lambda output: group_of[output["id"]])
    for better, worse in combinations(by_rank, 2):
        gap = group_of[worse["id"]] - group_of[better["id"]]
        if not gap:
            continue
        yield {
            "prompt": row["prompt"],
            "chosen": [{"role": "assistant", "content": better["text"]}],
            "rejected": [{"role": "assistant", "content": worse["text"]}],
            "task_id": row["task_id"],
            "prompt_group": row["id"],
            "rank_gap": gap,
            "annotator_hash": row["labeler"],
            "policy_chosen": better["policy"],
            "policy_rejected": worse["policy"],
            "split": row["split"],
            "version": row.get("version", 1),
        }


WINNERS = {"left": "model_a", "right": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}


def battle_of_vote(row: Row) -> Iterator[Row]:
    """A vote on a pair as a battle; ``model_a`` stood on the left of the labeler's page."""
    yield _battle(row, row["left"], row["right"], WINNERS[row["choice"]])


def battle(row: Row) -> Iterator[Row]:
    """A ranking of two judged answers as a battle; ``model_a`` stood first on the labeler's page.

    Who won stands even where both were said to be bad; "tie (bothbad)" is an all-bad tie.
    """
    if len(row["outputs"]) != 2 or row.get("not_judged"):
        return
    by_id = {output["id"]: output for output in row["outputs"]}
    first, second = row["shown_order"]
    if len(row["rank_groups"]) == 1:
        winner = "tie (bothbad)" if row.get("all_bad") else "tie"
    else:
        winner = "model_a" if row["rank_groups"][0] == [first] else "model_b"
    yield _battle(row, by_id[first], by_id[second], winner)


def _battle(row: Row, first: Row, second: Row, winner: str) -> Row:
    """``first`` stood first, or on the left."""
    said = [
        [*row["prompt"], {"role": "assistant", "content": output["text"]}]
        for output in (first, second)
    ]
    return {
        "question_id": row["prompt_id"],
        "model_a": first["policy"],
        "model_b": second["policy"],
        "winner": winner,
        "judge": row["labeler"],
        "conversation_a": said[0],
        "conversation_b": said[1],
        "turn": sum(message["role"] == "user" for message in row["prompt"]),
        "anony": True,
        "split": row["split"],
    }


def prompt_completion(row: Row) -> Iterator[Row]:
    """One demonstration."""
    yield {
        "prompt": row["prompt"],
        "completion": [{"role": "assistant", "content": row["completion"]}],
        "annotator_hash": row["labeler"],
        "source": row["source"],
        "split": row["split"],
        "version": row.get("version", 1),
    }


@dataclass(frozen=True)
class Format:
    """One way to write a snapshot."""

    name: str
    title: str | Promise
    kinds: tuple[str, ...]
    lines: Callable[[Row], Iterator[Row]] | None


FORMATS = {
    form.name: form
    for form in (
        Format("native", gettext_lazy("Native"), tuple(Snapshot.Kind.values), None),
        Format(
            "trl-preference",
            gettext_lazy("TRL preference"),
            (Snapshot.Kind.COMPARISONS.value,),
            preference_pairs,
        ),
        Format(
            "arena",
            gettext_lazy("Arena battles"),
            (Snapshot.Kind.COMPARISONS.value, Snapshot.Kind.VOTES.value),
            lambda row: battle_of_vote(row) if "choice" in row else battle(row),
        ),
        Format(
            "trl-prompt-completion",
            gettext_lazy("TRL prompt-completion"),
            (Snapshot.Kind.DEMONSTRATIONS.value,),
            prompt_completion,
        ),
    )
}


def formats_of(kind: str) -> list[Format]:
    """The formats in which a snapshot of this kind can be had."""
    return [form for form in FORMATS.values() if kind in form.kinds]


def export_lines(*, snapshot: Snapshot, format_name: str) -> Iterator[bytes]:
    """The snapshot as JSONL in that format, piece by piece.

    Raises NotFound for a format that this kind does not have and SnapshotMismatch for a damaged
    folder, both before the first piece.
    """
    form = FORMATS.get(format_name)
    if form is None or snapshot.kind not in form.kinds:
        offered = ", ".join(form.name for form in formats_of(snapshot.kind))
        raise NotFound(
            _("%(name)s can be had as %(offered)s.") % {"name": snapshot.name, "offered": offered}
        )
    path = snapshot_rows_path(snapshot)
    return native(path) if form.lines is None else _derived(path, form.lines)


def _derived(path: Path, lines: Callable[[Row], Iterator[Row]]) -> Iterator[bytes]:
    with path.open(encoding="utf-8") as rows:
        for row in rows:
            for derived in lines(json.loads(row)):
                yield (
                    json.dumps(derived, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                )
