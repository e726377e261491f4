"""What a reward model has to beat on pairs: length, words, and a linear probe of frozen states.

The learners are logistic regressions on the difference of two answers' features, without
intercept, their regularisation chosen by five-fold accuracy within the training pairs.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.learning.pairs import Ranked
from trainer.config import Precision

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation tried."""


def shorter_wins(pairs: Sequence[Ranked]) -> list[float]:
    """1 where the better answer has fewer characters, one half where as many."""
    lengths = [tuple(map(len, pair.answers)) for pair in pairs]
    return [1.0 if good < bad else 0.5 if good == bad else 0.0 for good, bad in lengths]


def bag_of_words(train: Sequence[Ranked], valid: Sequence[Ranked]) -> list[float]:
    """Which held-out pairs a regression on the words of the answers puts in order."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(min_df=2, ngram_range=(1, 1))
    counter.fit([text for pair in train for text in pair.answers])

    def differences(pairs: Sequence[Ranked]) -> Any:
        good, bad = (
            np.log1p(counter.transform([pair.answers[i] for pair in pairs]).toarray())
            for i in (0, 1)
        )
        return good - bad

    return in_order(differences(train), differences(valid))


def linear_probe(features: np.ndarray, train: Sequence[int], valid: Sequence[int]) -> list[float]:
    """The same on ``features`` [pairs, 2, H], the better answer's first, scaled by the train set's."""
    differences = features[:, 0] - features[:, 1]
    scale = differences[list(train)].std(0) + 1e-6
    return in_order(differences[list(train)] / scale, differences[list(valid)] / scale)


def in_order(train: np.ndarray, valid: np.ndarray) -> list[float]:
    """Fit on differences [N, F] (better minus worse) and say which of ``valid`` score above 0."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    signs = np.where(np.arange(len(train)) % 2 == 0, 1, -1)
    turned = train * signs[:, None]
    parts = min(5, len(train) // 2)  # a side of each sign in every part

    def model(strength: float) -> Any:
        return LogisticRegression(C=strength, fit_intercept=False, max_iter=2000)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        means = [cross_val_score(model(c), turned, signs, cv=parts).mean() for c in STRENGTHS]
        best = STRENGTHS[int(np.argmax(means))]
        scores = model(best).fit(turned, signs).decision_function(valid)
    return [1.0 if score > 0 else 0.5 if score == 0 else 0.0 for score in scores]


def last_states(
    model: Path,
    snapshot: Path,
    freeze: int,
    max_tokens: int,
    precision: Precision,
    frozen: Path | None = None,
) -> np.ndarray:
    """[rankings, 2, H] final hidden states at the last token of both answers of each train row.

    What the ``freeze`` lowest blocks give is kept in ``frozen``.
    """
    import torch

    from trainer.data import batch_rankings, load_rankings, own_micro_batches
    from trainer.frozen import FrozenStates
    from trainer.models import LanguageModel
    from trainer.stack import pick_device
    from trainer.text import Codec

    codec = Codec.load(model)
    rankings = load_rankings(snapshot, codec, max_tokens).train
    stack = LanguageModel.load(model, freeze, precision, pick_device()).stack
    lower, found = FrozenStates(stack, 0, frozen), torch.zeros(0)
    with torch.no_grad():
        for rows in own_micro_batches([ranking.tokens for ranking in rankings], 4096):
            some = [rankings[i] for i in rows]
            batch = batch_rankings(some, codec.pad_id, stack.device, shared=stack.segments)
            hidden = stack.hidden(batch.tokens, lower.lower(batch.tokens))
            states = hidden[batch.last].float().view(len(some), 2, -1)
            if not len(found):
                found = torch.zeros(len(rankings), *states.shape[1:])
            found[rows] = states.cpu()
    array: np.ndarray = found.numpy()
    return array
