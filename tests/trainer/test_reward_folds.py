"""Figures of the groups that were left out in turn: each fold's, and of all folds together."""

import math

import pytest
from torch import tensor

from trainer.data import Example, Ranking
from trainer.reward_report import (
    Fold,
    Pairs,
    fold_figures,
    folds_of,
    folds_report,
    pair_figures,
    wilson,
)


def ranking(labeler_group: str | None) -> Ranking:
    return Ranking([Example([1], [2]), Example([1], [3])], [0, 1], labeler_group=labeler_group)


def test_a_fold_leaves_one_group_out_and_those_of_no_group_are_one() -> None:
    train_set = [ranking(labeler_group=g) for g in ("a", "b", "b", None)]
    valid = [ranking(labeler_group=g) for g in ("b", "a", None)]
    folds = folds_of(train_set, valid)
    assert [(fold.left_out, len(fold.train)) for fold in folds] == [
        ("a", 3), ("b", 2), ("not stated", 3),
    ]  # fmt: skip
    assert folds_of(train_set[1:3], valid[:1]) == [], "nothing would be left to train on"


def test_the_group_left_out_is_measured_against_the_groups_within() -> None:
    valid = [ranking(labeler_group=g) for g in ("a", "b", "b")]
    at = tensor([0, 1, 1, 2])
    one = fold_figures(Fold("a", valid), Pairs(tensor([-1.0, 1.0, 2.0, -3.0]), at), valid)
    two = fold_figures(Fold("b", valid[:1]), Pairs(tensor([2.0, -1.0, 2.0, -3.0]), at), valid)
    assert (one["held_out"]["accuracy"], one["within"]["accuracy"]) == (0, pytest.approx(2 / 3))
    assert (two["held_out"]["accuracy"], two["within"]["accuracy"]) == (pytest.approx(1 / 3), 1)
    whole = folds_report([one, two])
    assert whole["held_out"]["accuracy"] == pytest.approx(1 / 4)
    assert whole["within"]["accuracy"] == pytest.approx(3 / 4)
    assert (whole["held_out"]["pairs"], whole["within"]["pairs"]) == (4, 4)
    assert whole["within"]["accuracy_low"] == pytest.approx(wilson(3, 4)[0])


def test_a_pair_met_in_several_folds_counts_once_for_the_interval() -> None:
    valid = [ranking(labeler_group=g) for g in "abc"]
    pairs = Pairs(tensor([1.0, -1.0, 2.0]), tensor([0, 1, 2]))
    within = folds_report([fold_figures(Fold(g, valid), pairs, valid) for g in "abc"])["within"]
    assert (within["pairs"], within["accuracy"]) == (3, pytest.approx(4 / 6))
    assert (within["accuracy_low"], within["accuracy_high"]) == pytest.approx(wilson(2, 3))


def test_the_calibration_of_folds_is_that_of_their_pairs_together() -> None:
    """Two right of four believed in at 0.75 in one fold, four of four in the other: 6 of 8."""
    valid = [ranking(labeler_group=g) for g in ("a",) * 4 + ("b",) * 4]
    at, odds = tensor(range(8)), math.log(3)
    pairs = Pairs(tensor([odds, odds, -odds, -odds, odds, odds, odds, odds]), at)
    found = folds_report([fold_figures(Fold(g, valid), pairs, valid) for g in "ab"])
    alone = [fold["held_out"]["calibration_error"] for fold in found["folds"]]
    assert alone == pytest.approx([0.25, 0.25])
    assert found["held_out"]["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert found["within"]["calibration_error"] == pytest.approx(0, abs=1e-6)
    mixed = pairs._replace(differences=tensor([2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 0.2, 4.0]))
    found = folds_report([fold_figures(Fold(g, valid), mixed, valid) for g in "ab"])
    whole = pair_figures(mixed.differences)
    for figure in ("accuracy", "log_loss", "calibration_error"):
        assert found["held_out"][figure] == pytest.approx(whole[figure]), figure
    assert set(found["folds"][0]) == {"left_out", "train_rankings", "held_out", "within"}
