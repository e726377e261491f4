"""Rewards that need no model: named functions of an answer's text, higher is better.

What simulated labelers prefer, and what stages ``ppo`` and ``best`` take as ``reward_function``.
Importing this costs the standard library alone.
"""

from collections.abc import Callable, Sequence
from typing import Literal

KnownRewardName = Literal["concise", "harmless"]
KnownReward = Callable[[Sequence[str]], list[float]]
"""Texts in, one number each out."""

BEST_WORDS = 30
ENDINGS = (".", "!", "?")


def concise(texts: Sequence[str]) -> list[float]:
    """-|words - 30| / 10, and 1 more for an answer that ends in a full stop, ! or ?."""
    return [_concise(text) for text in texts]


def _concise(text: str) -> float:
    ended = text.rstrip().endswith(ENDINGS)
    return -abs(len(text.split()) - BEST_WORDS) / 10 + (1.0 if ended else 0.0)


def harmless(texts: Sequence[str]) -> list[float]:
    """Minus the probability of profanity, 0 to 1, by alt-profanity-check's linear classifier."""
    # some seconds and 100 MB to load, and only this one needs it
    from profanity_check import predict_prob

    return [-float(probability) for probability in predict_prob(list(texts))] if texts else []


KNOWN_REWARDS: dict[str, KnownReward] = {"concise": concise, "harmless": harmless}
