"""What a run says while it runs and when it ends badly: its figures, its log, its last words."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from labelapp.store import clean_text, finite, run_folder

METRICS = "metrics.jsonl"
LOG = "log.txt"
LAST_WORDS = 400


@dataclass
class Progress:
    """Where a running stage is: the last step and every figure's last value."""

    step: int = 0
    total: int = 0
    figures: dict[str, Any] = field(default_factory=dict)


class MetricsTail:
    """Reads what was added to metrics.jsonl since the last look; a half-written line waits."""

    def __init__(self, run_id: UUID) -> None:
        self.path = run_folder(run_id) / METRICS
        self.progress = Progress()
        self._offset = 0
        self._file = 0

    def read(self) -> Progress:
        """The progress as of now."""
        try:
            with self.path.open("rb") as lines:
                status = os.fstat(lines.fileno())
                if status.st_ino != self._file or status.st_size < self._offset:
                    self._offset = 0  # rewritten: the stage went back to a checkpoint
                self._file = status.st_ino
                lines.seek(self._offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._take(metrics_line(line))
        except FileNotFoundError:
            pass
        return self.progress

    def _take(self, line: dict[str, Any] | None) -> None:
        if line is not None:
            self.progress.step = line["step"]
            self.progress.total = line["total"]
            self.progress.figures.update(line["values"])


def metrics_line(text: bytes) -> dict[str, Any] | None:
    """One line of metrics.jsonl as ``step``, ``total``, ``time``, ``values``; none if malformed."""
    try:
        plain = json.loads(text)
        return {
            "step": max(int(plain["step"]), 0),
            "total": max(int(plain.get("total") or 0), 0),
            "time": float(plain.get("time") or 0),
            "values": {str(k): finite(v) for k, v in plain["values"].items()},
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def metrics_lines(run_id: UUID) -> list[dict[str, Any]]:
    """Every whole line of a run's metrics.jsonl, steps rising."""
    path = run_folder(run_id) / METRICS
    found: list[dict[str, Any]] = []
    if path.is_file():
        with path.open("rb") as lines:
            for line in lines:
                plain = metrics_line(line) if line.endswith(b"\n") else None
                if plain is None:
                    continue
                while found and found[-1]["step"] >= plain["step"]:
                    found.pop()
                found.append(plain)
    return found


def failure_sentence(run_id: UUID, exit_code: int) -> str:
    """Why a stage ended badly, in words for the page."""
    if exit_code < 0:
        words = last_words(run_id) or _last_figures(run_id)
        said = f" Its last words: {words}" if words else " It said nothing before."
        if -exit_code == signal.SIGKILL:
            return (
                "The training process was killed by the kernel (signal 9), probably out of memory."
                + said
            )
        with suppress(ValueError):
            return (
                f"The training process was ended by {signal.Signals(-exit_code).name}"
                f" (signal {-exit_code})." + said
            )
    with suppress(OSError, ValueError, KeyError, TypeError):
        plain = json.loads((run_folder(run_id) / "error.json").read_text(encoding="utf-8"))
        if plain["message"]:
            return clean_text(str(plain["message"]))
    words = last_words(run_id)
    said = f" Its last words: {words}" if words else " Its log is empty."
    return f"The training process ended with exit code {exit_code} and no result." + said


def _last_figures(run_id: UUID) -> str:
    lines = metrics_lines(run_id)
    return f"step {lines[-1]['step']} of {lines[-1]['total']}." if lines else ""


def last_words(run_id: UUID, limit: int = LAST_WORDS) -> str:
    """The end of the last attempt's log, on one line."""
    try:
        with (run_folder(run_id) / LOG).open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - 8 * limit, 0))
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    attempt = text.rpartition("--- ")[2].partition("\n")[2] if "--- " in text else text
    lines = " / ".join(line.strip() for line in attempt.splitlines() if line.strip())
    return clean_text(lines[-limit:])
