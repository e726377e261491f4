"""The contract between the web app and the trainer: rows of a snapshot, samples, the manifest.

Standard library only. A file of rows is JSON Lines: one object a line, UTF-8, every field
written (null included), keys in the order of the dataclass. A folder is complete when its
``manifest.json`` is there: it is written last and names every other file with its SHA-256.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainer.errors import DataError, IntegrityError
from trainer.strict import from_json, to_plain

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ROWS = "rows.jsonl"

Split = Literal["train", "valid", "test"]
SnapshotKind = Literal["demonstrations", "comparisons", "prompts", "votes"]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class PromptRow:
    """A prompt without labels (the PPO data set, and what is sampled from)."""

    id: str
    prompt: tuple[Message, ...]
    split: Split
    kind: Literal["plain", "few_shot", "user"]
    use_case: str


@dataclass(frozen=True)
class DemonstrationRow:
    """A prompt and the completion a person wrote for it (the SFT data set).

    Or, with ``source`` policy, a model: the best of its answers by a reward model.
    """

    id: str
    prompt_id: str
    prompt: tuple[Message, ...]
    completion: str
    split: Split
    kind: Literal["plain", "few_shot", "user"]
    use_case: str
    source: Literal["labeler", "upload", "policy"]
    labeler: str | None  # pseudonym: a keyed hash, stable per installation; null if uploaded
    labeler_group: str | None
    round: int | None
    instructions_version: int | None
    active_ms: int | None
    confidence: float | None
    simulated: bool
    version: int = 1  # above 1: the labeler's correction of an earlier one


UNLABELED: dict[str, Any] = dict.fromkeys(
    ("labeler", "labeler_group", "round", "instructions_version", "active_ms", "confidence")
)
"""What a demonstration that no labeler wrote has in place of who, when and how."""


@dataclass(frozen=True)
class Sampling:
    """How one output was drawn."""

    temperature: float
    seed: int
    index: int  # the i-th answer to this prompt under this seed
    max_new_tokens: int


@dataclass(frozen=True)
class Output:
    """One completion that was ranked, with the model version that wrote it."""

    id: str
    text: str
    token_ids: tuple[int, ...]
    finished: bool  # ended by the end-of-text token rather than by the length limit
    policy: str  # id of the model version
    sampling: Sampling


@dataclass(frozen=True)
class ComparisonRow:
    """One labeler's ranking of K outputs (K = 2 to 9), the RM data set: one line, never pairs.

    Each output stands in one rank group or in ``not_judged``; ``all_bad`` says that none is
    acceptable, which is another thing than that they are equal.
    """

    id: str
    task_id: str
    prompt_id: str
    prompt: tuple[Message, ...]
    outputs: tuple[Output, ...]
    shown_order: tuple[str, ...]  # output ids as they stood on the labeler's page
    rank_groups: tuple[tuple[str, ...], ...]  # output ids, best group first; a group is a tie
    ratings: dict[str, int] | None  # output id -> 1 to 7
    flags: dict[str, dict[str, bool | None]] | None  # output id -> field -> yes, no, blank
    strength: float | None  # how much better the best is than the worst: 1 hardly, 4 by far
    confidence: float | None
    labeler: str
    labeler_group: str | None
    active_ms: int | None
    round: int
    instructions_version: int | None
    split: Split
    kind: Literal["plain", "few_shot", "user"]
    use_case: str
    surplus: bool
    simulated: bool
    version: int = 1  # above 1: the labeler's correction of an earlier one
    not_judged: tuple[str, ...] = ()  # output ids that the labeler left out of the ranking
    all_bad: bool = False

    def __post_init__(self) -> None:
        shown = [output.id for output in self.outputs]
        if not 2 <= len(shown) <= 9:
            raise DataError(f"ranking {self.id} has {len(shown)} outputs; 2 to 9 can be ranked.")
        placed = [output_id for group in self.rank_groups for output_id in group]
        if sorted((*placed, *self.not_judged)) != sorted(shown) or len(set(shown)) != len(shown):
            raise DataError(
                f"ranking {self.id} must place each of its outputs exactly once,"
                " or name it in not_judged."
            )
        for rated in (self.ratings or {}, self.flags or {}):
            if not set(rated) <= set(shown):
                raise DataError(f"ranking {self.id} rates an output that it does not have.")
        for rating in (self.ratings or {}).values():
            if not 1 <= rating <= 7:
                raise DataError(f"ranking {self.id} has the rating {rating}; it must be 1 to 7.")

    @property
    def judged(self) -> tuple[Output, ...]:
        """The outputs that were ranked, in the order of ``outputs``."""
        return tuple(output for output in self.outputs if output.id not in self.not_judged)

    def ranks(self) -> list[int]:
        """The group (0 = best) of each output of ``judged``."""
        group_of = {oid: i for i, group in enumerate(self.rank_groups) for oid in group}
        return [group_of[output.id] for output in self.judged]


@dataclass(frozen=True)
class VoteRow:
    """One labeler's vote on the answers of two versions: an evaluation, which no stage trains on."""

    id: str
    task_id: str
    prompt_id: str
    prompt: tuple[Message, ...]
    left: Output  # as they stood on the labeler's page; the side was drawn
    right: Output
    choice: Literal["left", "right", "tie", "both_bad"]
    labeler: str
    labeler_group: str | None
    active_ms: int | None
    round: int
    instructions_version: int | None
    split: Split
    kind: Literal["plain", "few_shot", "user"]
    use_case: str
    simulated: bool
    version: int = 1  # above 1: the labeler's correction of an earlier one

    def __post_init__(self) -> None:
        if self.left.policy == self.right.policy:
            raise DataError(f"vote {self.id} is on two answers of {self.left.policy}.")


@dataclass(frozen=True)
class SampleRow:
    """One completion drawn from a policy."""

    prompt_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]  # the completion's own ids as sampled, the end token included
    finished: bool
    seed: int
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class ScoreRow:
    """What one reward model thinks of one answer."""

    prompt_id: str
    index: int  # of the SampleRow
    judge: int  # place of the reward model in the run's settings
    score: float


@dataclass(frozen=True)
class Parent:
    """What a run was made from: the name and content hash of a snapshot or model version."""

    role: str  # policy, reference, reward, demonstrations, comparisons, prompts, samples, pretrain_text, valid_text
    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished folder holds. ``files`` maps a relative path to its SHA-256."""

    schema_version: int
    kind: str  # a SnapshotKind, or the stage: base, pretrain, text, sft, reward, ppo, sample, best, score
    name: str
    rows: int
    files: dict[str, str]
    parents: tuple[Parent, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # last figures, e.g. {"accuracy": 0.71}
    notes: tuple[str, ...] = ()  # said on the page too, e.g. what stands in for missing text

    @property
    def sha256(self) -> str:
        """One hash for the folder's content: over the sorted file hashes."""
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def row_line(row: Any) -> str:
    """One line of a rows file, newline included."""
    return json.dumps(to_plain(row), ensure_ascii=False, separators=(",", ":")) + "\n"


def read_rows(path: Path, cls: type[Row]) -> Iterator[Row]:
    """Stream the rows of a JSON Lines file; a bad one raises DataError naming line and field."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield from_json(cls, line, where=f"{path.name} line {number}", error=DataError)


def write_atomic(path: Path, chunks: Iterable[str]) -> str:
    """Write text beside ``path``, flush it to disk, rename it; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with beside.open("wb") as out:
            for chunk in chunks:
                data = chunk.encode()
                digest.update(data)
                out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare ``folder`` complete. Call it last."""
    text = json.dumps(to_plain(manifest), ensure_ascii=False, indent=1, sort_keys=True)
    write_atomic(folder / MANIFEST, [text, "\n"])


def read_manifest(folder: Path, *, verify: bool = False) -> Manifest:
    """The manifest of a finished folder.

    With ``verify`` every file is hashed. Raises IntegrityError when the manifest is missing,
    cannot be read, is of another schema version, or a file does not match it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise IntegrityError(f"{folder.name} has no {MANIFEST}: it was never finished.")
    where = f"{folder.name}/{MANIFEST}"
    manifest = from_json(Manifest, path.read_bytes(), where=where, error=IntegrityError)
    if manifest.schema_version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{folder.name} has schema version {manifest.schema_version};"
            f" this trainer reads {SCHEMA_VERSION}."
        )
    if verify:
        for relative, digest in manifest.files.items():
            file = folder / relative
            if not file.is_file():
                raise IntegrityError(f"{folder.name} lacks {relative}, which its manifest names.")
            if file_sha256(file) != digest:
                raise IntegrityError(f"{relative} of {folder.name} is not what its manifest says.")
    return manifest


def write_rows(
    folder: Path,
    kind: str,
    rows: Sequence[Any],
    parents: tuple[Parent, ...],
    settings: dict[str, Any],
    metrics: dict[str, Any],
) -> Manifest:
    """Write a folder that holds one file of rows, the manifest last."""
    digest = write_atomic(folder / ROWS, map(row_line, rows))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        name=folder.name,
        rows=len(rows),
        files={ROWS: digest},
        parents=parents,
        settings=settings,
        metrics=metrics,
    )
    write_manifest(folder, manifest)
    return manifest


def check_same(chunk: Manifest, settings: dict[str, Any], parents: Sequence[Parent]) -> None:
    """IntegrityError if a chunk that is there already was made otherwise."""
    same = json.loads(json.dumps(settings)) == chunk.settings
    if not same or [p.sha256 for p in parents] != [p.sha256 for p in chunk.parents]:
        raise IntegrityError(
            f"Chunk {chunk.name} was made with other settings or parents. Give the run a new"
            " folder, or delete the chunks to start over."
        )
