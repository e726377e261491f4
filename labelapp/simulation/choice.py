"""How simulated labelers choose: utility plus Gumbel noise, sorted; equal texts are a tie.

With noise of scale s on each answer, i goes before j with probability p = sigmoid((u_i - u_j) / s)
(Luce's choice rule), so two labelers agree on that pair with probability p^2 + (1 - p)^2. The
scale is solved from the utilities of real answer sets so that the mean of this is what people
reach (InstructGPT: 72.6 % between training labelers). Every draw gives an order without rings,
whatever the answers are.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from labelapp.simulation.utilities import Utility

AGREEMENT = 0.73


@dataclass(frozen=True)
class Chooser:
    """One preference with its noise. The same seed gives the same rankings."""

    utility: Utility
    scale: float
    seed: int = 0

    def groups(self, *, labeler: str, assignment: str, texts: Sequence[str]) -> list[list[int]]:
        """Indexes of the answers, best group first; a group is a tie."""
        same = tie_groups(texts)
        values = self.utility([texts[group[0]] for group in same])
        noisy = [
            value + self.scale * gumbel(f"{self.seed}/{labeler}/{assignment}/{group[0]}")
            for value, group in zip(values, same, strict=True)
        ]
        order = sorted(range(len(same)), key=lambda i: noisy[i], reverse=True)
        return [same[i] for i in order]


def tie_groups(texts: Sequence[str]) -> list[list[int]]:
    """Indexes of equal texts (blanks at the ends aside) together, in order of appearance."""
    found: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        found.setdefault(text.strip(), []).append(index)
    return list(found.values())


def gumbel(key: str) -> float:
    """A draw from the standard Gumbel distribution that depends on ``key`` alone."""
    bits = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 11
    uniform = (bits + 0.5) / 2**53
    return -math.log(-math.log(uniform))


def untied_differences(sets: Sequence[Sequence[str]], utility: Utility) -> list[float]:
    """|u_i - u_j| of every pair of different texts within a set."""
    differences = []
    for texts in sets:
        values = utility(texts)
        for one, two in combinations(tie_groups(texts), 2):
            differences += [abs(values[i] - values[j]) for i in one for j in two]
    return differences


def expected_agreement(differences: Sequence[float], scale: float) -> float:
    """Share of pairs on which two labelers with noise of this scale agree, on average.

    A pair of equal utility counts one half. Raises ValueError without pairs.
    """
    if not differences:
        raise ValueError("There is no pair of different answers.")
    total = 0.0
    for difference in differences:
        p = 1 / (1 + math.exp(-min(difference / scale, 700.0)))
        total += p * p + (1 - p) * (1 - p)
    return total / len(differences)


def scale_for_agreement(differences: Sequence[float], agreement: float = AGREEMENT) -> float:
    """The noise's scale at which two labelers agree on this share of pairs.

    Agreement falls from its best (no noise) to one half as the scale grows, so bisection finds
    it. Where even the least noise agrees less (too many pairs of equal utility), the least noise
    is returned; without any pair, 1.0. Raises ValueError unless 0.5 < agreement < 1.
    """
    if not 0.5 < agreement < 1:
        raise ValueError(f"agreement is {agreement}; it must be above 0.5 and below 1.")
    largest = max(differences, default=0.0)
    if largest == 0:
        return 1.0
    low, high = math.log(largest * 1e-4), math.log(largest * 1e4)
    for _ in range(60):
        middle = (low + high) / 2
        if expected_agreement(differences, math.exp(middle)) > agreement:
            low = middle
        else:
            high = middle
    return math.exp(low)
