"""The table and the JSON object of a benchmark."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.measure import Figures, peak_gflops
from trainer.records import write_atomic

ALONE = "No peer was measured: ratios are null."
NO_PEER = f"{ALONE} Leave --no-peer out to measure one."
LEFT_OUT = (
    "Rates are medians over the timed repetitions. The first repetition is left out, and with it"
    " loading and compilation (warm-up); memory is the peak of the process tree, all of that"
    " included."
)


class Case(NamedTuple):
    """Ours and a peer's in one setting."""

    name: str
    precision: str  # of ours
    ours: Figures
    peer: Figures | None
    flops: float  # needed per unit of the rate

    @property
    def ratio(self) -> float | None:
        """Our rate over the peer's."""
        return None if self.peer is None else round(self.ours.rate / self.peer.rate, 3)

    @property
    def cpu_ratio(self) -> float | None:
        """The same per second of processor time."""
        return None if self.peer is None else round(self.ours.cpu_rate / self.peer.cpu_rate, 3)

    @property
    def memory_ratio(self) -> float | None:
        """Our peak memory over the peer's."""
        return None if self.peer is None else round(self.ours.peak_mb / self.peer.peak_mb, 3)


class Benchmark(NamedTuple):
    """What was measured."""

    name: str
    unit: str
    settings: dict[str, Any]
    cases: Sequence[Case]
    threads: int = 0  # of torch; 0 leaves its default


def plain(benchmark: Benchmark) -> dict[str, Any]:
    """The JSON object; ours, peer, ratio, memory_ratio and roofline are by case."""
    cases, threads = benchmark.cases, benchmark.threads
    peaks = {p: peak_gflops(p, threads) for p in sorted({case.precision for case in cases})}
    return {
        "benchmark": benchmark.name,
        "unit": benchmark.unit,
        "settings": benchmark.settings | {"machine": machine()},
        "ours": {case.name: asdict(case.ours) for case in cases},
        "peer": {case.name: asdict(case.peer) if case.peer else None for case in cases},
        "ratio": {case.name: case.ratio for case in cases},
        "cpu_ratio": {case.name: case.cpu_ratio for case in cases},
        "memory_ratio": {case.name: case.memory_ratio for case in cases},
        "roofline": {case.name: _roofline(case, peaks[case.precision]) for case in cases},
        "notes": [LEFT_OUT, *_alone(benchmark)],
    }


def _alone(benchmark: Benchmark) -> list[str]:
    """A note where no peer was measured; why one that was asked for was not is in the settings."""
    if any(case.peer for case in benchmark.cases):
        return []
    return [NO_PEER if benchmark.settings.get("peer") is None else ALONE]


def publish(benchmark: Benchmark, json_file: Path | None) -> None:
    """Print the table and, if a file is named, write the object."""
    found = plain(benchmark)
    print(table(found))
    if json_file is not None:
        write_atomic(json_file, [json.dumps(found, indent=1), "\n"])


def table(found: Mapping[str, Any]) -> str:
    """The object as a person reads it."""
    head = ["case", f"ours {found['unit']}", "peer", "ratio", "cpu ratio", "ours MB", "peer MB"]
    rows = [[*head, "memory ratio", "GFLOP/s", "of peak"]]
    for name, ours in found["ours"].items():
        peer, roofline = found["peer"][name] or {}, found["roofline"][name]
        rows.append(
            [
                name,
                f"{ours['rate']:g}",
                _shown(peer.get("rate")),
                _shown(found["ratio"][name]),
                _shown(found["cpu_ratio"][name]),
                f"{ours['peak_mb']:.0f}",
                _shown(peer.get("peak_mb")),
                _shown(found["memory_ratio"][name]),
                f"{roofline['gflops']:.1f}",
                f"{roofline['share']:.1%} of {roofline['peak_gflops']:.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) for row in rows]
    said = [f"{name}: {value}" for name, value in found["settings"].items()]
    warm = [f"{name} {ours['warm_up_seconds']} s" for name, ours in found["ours"].items()]
    beside = [
        f"{side}, {name}: {', '.join(f'{key} {value}' for key, value in figures['extra'].items())}"
        for side in ("ours", "peer")
        for name, figures in found[side].items()
        if figures and figures["extra"]
    ]
    tail = [*beside, *found["notes"], f"Warm-up of ours: {', '.join(warm)}."]
    return "\n".join([found["benchmark"], *said, "", *(line.rstrip() for line in lines), "", *tail])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _roofline(case: Case, peak: float) -> dict[str, float]:
    """Rate of needed operations, and its share of the machine's measured peak."""
    reached = case.ours.rate * case.flops / 1e9
    return {
        "flops_per_unit": case.flops,
        "gflops": round(reached, 3),
        "peak_gflops": round(peak, 1),
        "share": round(reached / peak, 4),
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cpus": len(psutil.Process().cpu_affinity() or []) or psutil.cpu_count(),
        **{name: version(name) for name in ("torch", "transformers")},
    }
