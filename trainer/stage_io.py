"""What every stage does around its run folder: lock, signals, figures, errors.

A run folder holds config.json (the caller's), .lock, precision (what ``auto`` came to),
metrics.jsonl, checkpoints/, model/ and, last, manifest.json; error.json {code, message} after a
clean failure. A second process on the same folder ends with FolderBusy; a folder with a manifest
is finished and left as it is.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from trainer import distributed
from trainer.errors import ConfigError, DiskFull, FolderBusy, IntegrityError, Stopped, TrainerError
from trainer.records import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    Parent,
    file_sha256,
    read_manifest,
    write_atomic,
    write_manifest,
)

METRICS = "metrics.jsonl"
ERROR = "error.json"
MODEL = "model"
PARENT_VARIABLE = "LABELAPP_PARENT_PID"
_NOT_CONTENT = {MANIFEST, ERROR, METRICS, "config.json", "precision", "log.txt", "checkpoints"}
_PR_SET_PDEATHSIG = 1
_STOPPED = "Asked to stop. The run goes on from its last checkpoint when retried."


class Interrupted(Exception):
    """SIGTERM came; what was done since the last optimiser step will be done again."""


class Run:
    """One run folder while its stage writes it.

    ``stop_requested`` turns true on SIGTERM (or the first Ctrl-C): the stage then writes a
    checkpoint and calls ``stop``. Of several processes each has its own, and they agree by
    ``stopping``; the first alone writes. ``finished`` says that the manifest was already there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.stop_requested = False
        self.finished = (out / MANIFEST).is_file()
        self.at_once = False  # whether SIGTERM ends it wherever it is: nothing is to be written
        self.left = False  # whether it did
        self._last_step: int | None = None
        self._bar: Any = None

    def log(self, *, step: int, total: int, **values: Any) -> None:
        """Add one line to metrics.jsonl: {"step", "total", "time" (Unix seconds), "values"}.

        Steps must rise. The first line of a process drops what an earlier try wrote at this
        step or beyond, so that no step is there twice. Figures that are not finite become null.
        """
        if self._last_step is None:
            if distributed.is_main():
                self._drop_from(step)
        elif step <= self._last_step:
            raise ValueError(f"step {step} was logged after step {self._last_step}")
        self._last_step = step
        if not distributed.is_main():
            return
        figures = {name: _plain(value) for name, value in values.items()}
        line = {"step": step, "total": total, "time": round(time.time(), 3), "values": figures}
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        target = os.open(self.out / METRICS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(target, data)
        finally:
            os.close(target)
        self._show(step, total, figures)

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one torn by a kill is left out."""
        path = self.out / METRICS
        found: list[dict[str, Any]] = []
        if path.is_file():
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    line = json.loads(text)
                    if isinstance(line, dict) and isinstance(line.get("step"), int):
                        found.append(line)
        return found

    @property
    def stopping(self) -> bool:
        """Whether any process of the run was asked to stop: all must look together."""
        return distributed.any_of(self.stop_requested)

    def stop(self) -> NoReturn:
        """End here, after the checkpoint was written, because SIGTERM asked for it."""
        raise Stopped(_STOPPED)

    def check(self) -> None:
        """End here if SIGTERM asked for it and there is nothing to write first."""
        if self.stop_requested:
            self.stop()

    def stop_at_once(self) -> None:
        """From here on SIGTERM ends it wherever it is, until there is something to be ``saved``.

        Not one of several: it would leave the others waiting, and a launcher that ends those left of
        a run in which one crashed sends SIGTERM too.
        """
        if distributed.size() > 1:
            return
        self.at_once = True
        self.check()

    def interrupt(self, *_: Any) -> None:
        """Raise Interrupted if SIGTERM asked for it; to be called now and then where a checkpoint
        is written first.
        """
        if self.stop_requested:
            raise Interrupted

    @contextlib.contextmanager
    def saved(self, save: Callable[[], None]) -> Iterator[None]:
        """What Interrupted ends inside ends the run, after ``save`` wrote the checkpoint."""
        self.at_once = False
        try:
            yield
        except Interrupted:
            save()
            self.stop()

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest: the run is complete."""
        write_manifest(self.out, manifest)
        self.finished = True

    def _drop_from(self, step: int) -> None:
        path = self.out / METRICS
        if path.is_file():
            kept = [line for line in self.lines() if line["step"] < step]
            write_atomic(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def _show(self, step: int, total: int, figures: dict[str, Any]) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm  # only where somebody looks

            self._bar = tqdm(total=total, initial=step - 1, desc=self.out.name, disable=False)
        self._bar.total = total
        shown = {k: v for k, v in figures.items() if isinstance(v, int | float)}
        self._bar.set_postfix(dict(list(shown.items())[:4]), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """End the progress bar, if there is one."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def open_run(out: str | Path) -> Iterator[Run]:
    """Hold the run folder ``out``: its lock, its signals, and its error.json on failure.

    Raises FolderBusy when another process holds it. Every other failure inside leaves an
    error.json; one that is not a TrainerError is raised again as one (a full disk as DiskFull,
    the rest with code 1 after its traceback on stderr).
    """
    out = Path(out)
    die_with_parent()
    with distributed.together():
        lock = _locked(out) if distributed.is_main() else contextlib.nullcontext()
    with lock:
        run = Run(out)
        run.finished = distributed.from_main(run.finished)
        if not run.finished and distributed.is_main():
            (out / ERROR).unlink(missing_ok=True)
        try:
            with _stop_signals(run):
                yield run
        except Exception as error:
            known = _as_known(error, run)
            _write_error(out, known)
            if known is error:
                raise
            raise known from error
        finally:
            run.close()


def _locked(out: Path) -> IO[str]:
    """The run folder's lock, held until it is closed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a")
    except OSError as error:
        raise _translated(error, out) or TrainerError(
            f"The run folder {out} cannot be written: {error.strerror}."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FolderBusy(f"Another process is writing {out}; wait until it ends.") from None
    return lock


@contextlib.contextmanager
def _stop_signals(run: Run) -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        if run.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        run.stop_requested = True
        if run.at_once:
            run.at_once, run.left = False, True  # once
            run.stop()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent() -> None:
    """On Linux, be killed when the process that LABELAPP_PARENT_PID names, our parent, dies;
    one of several, when their launcher does, which starts each in a session of its own.
    """
    if distributed.launched() and sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    named = os.environ.get(PARENT_VARIABLE, "")
    if not named.isdecimal() or not sys.platform.startswith("linux"):
        return
    parent = int(named)
    if os.getppid() == parent:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() == parent:
            return
    try:
        os.kill(parent, 0)
    except ProcessLookupError:  # it died while we started
        raise Stopped("The process that started this run is gone.") from None
    except PermissionError:
        return


def _as_known(error: Exception, run: Run) -> TrainerError:
    """What a failure is to be called; one that has no name is printed whole."""
    if run.left:  # a library may have caught the stop and raised its own error
        return Stopped(_STOPPED)
    known = error if isinstance(error, TrainerError) else _translated(error, run.out)
    if known is None:
        traceback.print_exc()
        return TrainerError(f"{type(error).__name__}: {error}")
    return known


def _translated(error: BaseException, out: Path) -> TrainerError | None:
    """A full disk under any of its names, or a process that ended; else none."""
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    full = full or "No space left on device" in text or "Disk quota exceeded" in text
    if not full and "PytorchStreamWriter" in text:
        full = shutil.disk_usage(out).free < 64 * 2**20
    if full:
        return DiskFull(f"The disk of {out} is full. Free some space and retry.")
    return distributed.lost_in_pass(error)


def _write_error(out: Path, error: TrainerError) -> None:
    if not distributed.is_main():
        return
    plain = {"code": error.exit_code, "message": str(error)}
    try:
        write_atomic(out / ERROR, [json.dumps(plain, ensure_ascii=False), "\n"])
    except OSError as failed:
        print(f"{ERROR} could not be written: {failed.strerror}.", file=sys.stderr)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def folder_files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of what a finished folder holds.

    Left out: the manifest itself, what is about the run rather than its result (settings,
    figures, log, error, checkpoints at the top), and hidden files.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if parts[0] in _NOT_CONTENT or any(part.startswith(".") for part in parts):
            continue
        if path.is_file():
            found["/".join(parts)] = file_sha256(path)
    return found


def parent_of(role: str, folder: str | Path) -> Parent:
    """Name and content hash of a snapshot folder or of a model folder, every file verified.

    The manifest is the folder's own or, for a run's ``model/``, the run's; a folder without
    either (a model from elsewhere) is hashed as it is. IntegrityError if a file does not match.
    """
    folder = Path(folder)
    for holder in (folder, folder.parent):
        if (holder / MANIFEST).is_file():
            manifest = read_manifest(holder, verify=True)
            return Parent(role, manifest.name, manifest.sha256)
    if not folder.is_dir():
        raise IntegrityError(f"{folder} does not exist.")
    loose = Manifest(SCHEMA_VERSION, role, folder.name, 0, folder_files(folder))
    return Parent(role, loose.name, loose.sha256)


def reward_parents(folder: str, function: str | None) -> list[Parent]:
    """The reward model as a parent, none where a known reward scores; ConfigError without either."""
    if function is not None:
        return []
    if not folder:
        raise ConfigError(
            "settings.reward is empty; name the folder of a reward model, or a reward_function."
        )
    return [parent_of("reward", folder)]


def set_threads(count: int) -> None:
    """Intra-op threads of torch; 0 leaves its default."""
    import torch  # here, so that a busy folder or a wrong setting is told before torch loads

    if count > 0:
        torch.set_num_threads(count)
