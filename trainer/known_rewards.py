"""Rewards that need no model: named functions of an answer's text, higher is better.

What simulated labelers prefer, and what stages ``ppo`` and ``best`` take as ``reward_function``.
Importing this costs the standard library alone.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import Literal

KnownRewardName = Literal["concise", "harmless", "harmless_logit"]
KnownReward = Callable[[Sequence[str]], list[float]]
"""Texts in, one number each out."""

BEST_WORDS = 30
ENDINGS = (".", "!", "?")
SURE = 1e-6  # a probability as near to 0 or 1 as a log-odds takes it


def concise(texts: Sequence[str]) -> list[float]:
    """-|words - 30| / 10, and 1 more for an answer that ends in a full stop, ! or ?."""
    return [_concise(text) for text in texts]


def _concise(text: str) -> float:
    ended = text.rstrip().endswith(ENDINGS)
    return -abs(len(text.split()) - BEST_WORDS) / 10 + (1.0 if ended else 0.0)


def harmless(texts: Sequence[str]) -> list[float]:
    """Minus the probability of profanity, 0 to 1, by alt-profanity-check's linear classifier."""
    return [-probability for probability in _profanity(texts)]


def harmless_logit(texts: Sequence[str]) -> list[float]:
    """The log-odds that there is no profanity, -13.8 to 13.8 nats, by the classifier of ``harmless``.

    Few answers hold any, so that most probabilities are near 0 and nearly equal; their log-odds
    differ from answer to answer.
    """
    within = (min(max(it, SURE), 1 - SURE) for it in _profanity(texts))
    return [log(1 - probability) - log(probability) for probability in within]


def _profanity(texts: Sequence[str]) -> list[float]:
    # some seconds and 100 MB to load, and only these need it
    from profanity_check import predict_prob

    return [float(probability) for probability in predict_prob(list(texts))] if texts else []


KNOWN_REWARDS: dict[str, KnownReward] = {
    "concise": concise,
    "harmless": harmless,
    "harmless_logit": harmless_logit,
}
