"""Agreement between labelers, win rates, and bootstrap intervals. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Agreement:
    """On how many of the compared pairs two rankings have the same order."""

    agreed: int
    pairs: int

    @property
    def rate(self) -> float | None:
        """A fraction; none without pairs."""
        return self.agreed / self.pairs if self.pairs else None

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.agreed + other.agreed, self.pairs + other.pairs)


def pairwise_agreement(first: Sequence[int], second: Sequence[int]) -> Agreement:
    """Compare two rankings of the same answers, given as ranks (0 best, equal is a tie).

    A pair that either ranking leaves tied is not compared.
    """
    agreed = pairs = 0
    for i, j in combinations(range(len(first)), 2):
        one, two = first[i] - first[j], second[i] - second[j]
        if one and two:
            pairs += 1
            agreed += (one < 0) == (two < 0)
    return Agreement(agreed, pairs)


def win_share(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Share of all pairs (one of ours, one of theirs) that ours win; an equal pair is half a win."""
    wins = sum((a > b) + 0.5 * (a == b) for a in ours for b in theirs)
    return wins / (len(ours) * len(theirs))


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` prompts with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and percentile interval, resampling the values (one per prompt) with replacement.

    Raises ValueError without values.
    """
    if not len(values):
        raise ValueError("There is nothing to take the mean of.")
    sample = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    low, high = np.quantile(sample[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))
