"""Processes and what they take: time between the lines of a log, peak memory, matrix products."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import psutil

from trainer.stage_io import PARENT_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
_EVERY = 0.03  # seconds between two looks at a process
_SEARCH_EVERY = 0.25  # seconds between two searches for its children: each reads all of /proc
_OFFLINE = {
    "GOMP_SPINCOUNT": "1000",  # as the trainer sets it: spinning threads lose on shared cores
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


@dataclass(frozen=True)
class Figures:
    """What one side did in one setting."""

    rate: float
    """Median over the timed repetitions, in the benchmark's unit."""
    rates: list[float]
    """Of each."""
    cpu_rate: float
    """The same median per second of processor time, which other work on the machine hardly moves."""
    peak_mb: float
    """Peak resident memory of the process tree, from start to end, in 2^20 bytes."""
    warm_up_seconds: float
    """From the start of the process to the end of the repetition left out: loading, compilation."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else was measured, and how it was set."""


class Ended(NamedTuple):
    """A child process that is done."""

    started: float  # Unix seconds
    peak_mb: float
    cpu: list[tuple[float, float]]  # Unix seconds, and the tree's processor seconds until then

    def cpu_until(self, moment: float) -> float:
        """Processor seconds until a moment, on the line between the two looks around it."""
        place = bisect_left(self.cpu, (moment, 0.0))
        if place in (0, len(self.cpu)):
            return self.cpu[min(place, len(self.cpu) - 1)][1]
        (before, low), (after, high) = self.cpu[place - 1 : place + 1]
        return low + (high - low) * (moment - before) / (after - before)


def environment(threads: int) -> dict[str, str]:
    """Of every child, ours or a peer's; ``threads`` 0 leaves the libraries' default."""
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return os.environ | _OFFLINE | limit


def run(command: Sequence[str], threads: int, log: Path) -> Ended:
    """Run a command to its end; SystemExit, with the end of its output, if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with log.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment(threads), stdout=out, stderr=subprocess.STDOUT
        )
        watch = _Watch(child.pid)
        watch.start()
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            watch.ended.set()
            watch.join()
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        raise SystemExit(f"{' '.join(command)}\nended with {code}; the end of {log}:\n{tail}")
    return Ended(started, watch.peak / 2**20, watch.cpu)


def stoppable() -> None:
    """Let SIGTERM end the script as Ctrl-C does, its child first; and the child if we are killed."""

    def end(number: int, _frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    os.environ[PARENT_VARIABLE] = str(os.getpid())


class _Watch(threading.Thread):
    """Looks at a process and all below it until ``ended`` is set; ``peak`` is in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.ended = pid, 0, threading.Event()
        self.cpu: list[tuple[float, float]] = [(time.time(), 0.0)]

    def run(self) -> None:
        try:
            top = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return
        tree, searched = [top], 0.0
        while not self.ended.wait(_EVERY):
            if time.monotonic() - searched > _SEARCH_EVERY:
                try:
                    tree, searched = [top, *top.children(recursive=True)], time.monotonic()
                except psutil.NoSuchProcess:
                    return
            self.cpu.append((time.time(), max(self.cpu[-1][1], sum(map(_cpu, tree)))))
            now = sum(_resident(process) for process in tree)
            self.peak = max(self.peak, now, *(_highest(process.pid) for process in tree))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _cpu(process: psutil.Process) -> float:
    """Processor seconds of a process and of its children that are gone."""
    try:
        spent = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def _highest(pid: int) -> int:
    """The kernel's own high-water mark of one process, which no look can miss; 0 if unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in lines.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


# ---- the trainer's own stages --------------------------------------------------------------------


class Stage(NamedTuple):
    """A finished run of ``python -m trainer``."""

    out: Path
    ended: Ended
    lines: list[dict[str, Any]]  # of metrics.jsonl: step, total, time, values

    @property
    def manifest(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads((self.out / "manifest.json").read_text("utf-8"))
        return plain

    @property
    def times(self) -> list[float]:
        """Unix seconds of each line."""
        return [line["time"] for line in self.lines]


def stage(name: str, out: Path, settings: dict[str, Any], profile: Path | None = None) -> Stage:
    """Run a stage of the trainer as its users do; with ``profile`` under torch's profiler."""
    config = out.with_name(f"{out.name}.json")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"out": str(out)} | settings), encoding="utf-8")
    module = ["trainer"] if profile is None else ["bench.profiled", str(profile)]
    command = [sys.executable, "-m", *module, name, "--config", str(config)]
    ended = run(command, int(settings.get("threads", 0)), out.with_name(f"{out.name}.log"))
    text = (out / "metrics.jsonl").read_text(encoding="utf-8")
    return Stage(out, ended, [json.loads(line) for line in text.splitlines()])


def figures(units: Sequence[float], marks: Sequence[float], ended: Ended, **extra: Any) -> Figures:
    """``units[i]`` were done between the moments ``marks[i]`` and ``marks[i + 1]``, Unix seconds.

    What was done until the first mark is the repetition left out. SystemExit if nothing is left.
    """
    spans = list(zip(marks, marks[1:], strict=False))
    if not spans:
        raise SystemExit("Nothing was timed: ask for one repetition at least.")
    rates = [unit / (b - a) for unit, (a, b) in zip(units, spans, strict=True)]
    cpu = [ended.cpu_until(b) - ended.cpu_until(a) for a, b in spans]
    return Figures(
        rate=round(statistics.median(rates), 4),
        rates=[round(rate, 4) for rate in rates],
        cpu_rate=round(
            statistics.median(u / max(c, 1e-9) for u, c in zip(units, cpu, strict=True)), 4
        ),
        peak_mb=round(ended.peak_mb, 1),
        warm_up_seconds=round(marks[0] - ended.started, 2),
        extra=extra,
    )


# ---- the machine ---------------------------------------------------------------------------------


def peak_gflops(precision: str, threads: int, size: int = 2048, repetitions: int = 8) -> float:
    """The best rate of a product of two square matrices, in 10^9 operations a second."""
    import torch  # here: what only prints needs none

    if threads:
        torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, size, size).to(dtype).unbind(0)
    best = 0.0
    for _ in range(repetitions):
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best
