"""Means with intervals of 95 %, and reward at equal KL."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000
GRID = 200
"""KLs at which two paths are compared to take the mean."""
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 0.975 for 1 to 9 degrees of freedom."""
_Z = 1.959964


class Interval(NamedTuple):
    """A mean and where it lies with 95 %; none is known of a single value."""

    value: float
    low: float | None
    high: float | None
    n: int

    def plain(self) -> dict[str, Any]:
        """As JSON, rounded."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in self._asdict().items()}


def over_runs(values: Sequence[float]) -> Interval:
    """Student's interval over 1 to 10 runs or folds."""
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return Interval(mean, None, None, 1)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = _T[count - 2] * spread / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def wilson(right: float, count: int) -> Interval:
    """A share of ``count`` independent trials."""
    share, square = right / count, _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / count + square / count / 4) / (1 + square)
    return Interval(share, middle - half, middle + half, count)


def over_items(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Percentiles of the means of items drawn again with replacement."""
    items = np.asarray(values, dtype=float)
    draw = np.random.default_rng(seed)
    means = [items[draw.integers(0, len(items), len(items))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(items.mean()), float(low), float(high), len(items))


# ---- reward against KL ----------------------------------------------------------------------------


class Point(NamedTuple):
    """Where a policy stands."""

    kl: float  # nats per answer
    reward: float


def path_of(points: Iterable[Point], block: int) -> list[Point]:
    """Means of ``block`` updates each, by KL: what is left at the end makes no point."""
    kept = list(points)
    means = [
        Point(*(sum(column) / block for column in zip(*kept[i : i + block], strict=True)))
        for i in range(0, len(kept) - block + 1, block)
    ]
    return sorted(means)


def reward_at(path: Sequence[Point], kl: float) -> float | None:
    """The reward of a path, sorted by KL, on the line between its two points around ``kl``."""
    for before, after in zip(path, path[1:], strict=False):
        if before.kl <= kl <= after.kl:
            if before.kl == after.kl:
                return (before.reward + after.reward) / 2
            share = (kl - before.kl) / (after.kl - before.kl)
            return before.reward + share * (after.reward - before.reward)
    return None


def equal_kl(
    ours: Sequence[Sequence[Point]], theirs: Sequence[Sequence[Point]], grid: Sequence[float]
) -> list[dict[str, Any]]:
    """For each KL that some path of both sides covers: reward of both, and the difference over the
    pairs of runs (same seed) that both cover it.
    """
    found = []
    for kl in grid:
        both = [
            (one, other)
            for mine, yours in zip(ours, theirs, strict=True)
            if (one := reward_at(mine, kl)) is not None
            and (other := reward_at(yours, kl)) is not None
        ]
        if both:
            found.append(
                {
                    "kl": kl,
                    "ours": over_runs([one for one, _ in both]).plain(),
                    "peer": over_runs([other for _, other in both]).plain(),
                    "difference": over_runs([one - other for one, other in both]).plain(),
                }
            )
    return found


def between(ours: Sequence[Sequence[Point]], theirs: Sequence[Sequence[Point]]) -> Interval | None:
    """How much more reward ours has in the mean over the KLs that both paths of a pair of runs (same
    seed) cover, over the pairs; none where no pair has any in common.
    """
    found = []
    for mine, yours in zip(ours, theirs, strict=True):
        low, high = max(mine[0].kl, yours[0].kl), min(mine[-1].kl, yours[-1].kl)
        if low < high:
            grid = np.linspace(low, high, GRID).tolist()
            ahead = [(reward_at(mine, kl), reward_at(yours, kl)) for kl in grid]
            found.append(sum(a - b for a, b in ahead if a is not None and b is not None) / GRID)
    return over_runs(found) if found else None


def verdict(whole: Interval | None) -> str:
    """What the mean difference at equal KL says: one sentence."""
    if whole is None or whole.low is None or whole.high is None:
        return "One run a side or no KL in common: nothing can be said."
    said = f"{whole.value:+.3f} ({whole.low:+.3f} to {whole.high:+.3f})"
    mean = f"ours less the peer's over all KLs that both cover is {said} in the mean of {whole.n} pairs"
    if whole.low > 0:
        return f"Ours reaches a higher reward at equal KL: {mean}."
    if whole.high < 0:
        return f"The peer reaches a higher reward at equal KL: {mean}."
    return f"Both reach the same frontier: {mean}."
