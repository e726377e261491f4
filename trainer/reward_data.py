"""What a reward model is trained and measured on."""

from typing import NamedTuple

from trainer.config import RewardConfig
from trainer.data import Example, Ranking, Splits, load_demonstrations, load_rankings
from trainer.reward_report import Fold, folds_of
from trainer.text import Codec

NO_FOLDS = (
    "There are no folds: they need held-out rankings of a labeler group, and rankings of another"
    " group to train on."
)


class Data(NamedTuple):
    """What is learned from, what is measured on, and what the scores are centred on."""

    rankings: Splits[Ranking]
    demonstrations: list[Example] | None
    folds: list[Fold]
    notes: tuple[str, ...]

    def steps(self, config: RewardConfig) -> list[int]:
        """Optimiser steps of the model that is kept, and of each fold's."""
        pieces = [self.rankings.train, *(fold.train for fold in self.folds)]
        return [config.epochs * -(-len(piece) // config.batch) for piece in pieces]


def load(config: RewardConfig, codec: Codec, positions: int | None) -> Data:
    """Read the snapshots; what is longer than the model's ``positions`` is left out too."""
    limit = min(config.max_tokens, positions or config.max_tokens)
    rankings = load_rankings(config.comparisons, codec, limit, ties=config.ties == "model")
    notes, examples = rankings.notes, None
    if config.demonstrations is None:
        notes = (*notes, "There were no demonstrations: the scores have no bias.")
    else:
        found = load_demonstrations(config.demonstrations, codec, limit)
        notes, examples = (*notes, *found.notes), [*found.train, *found.valid]
    folds = folds_of(rankings.train, rankings.valid) if config.folds_by is not None else []
    if config.folds_by is not None and not folds:
        notes = (*notes, NO_FOLDS)
    return Data(rankings, examples, folds, notes)
