"""Agreement, win rates and bootstrap intervals, against numbers worked by hand."""

import pytest

from labelapp.simulation.statistics import (
    Agreement,
    bootstrap_mean,
    pairwise_agreement,
    win_share,
)


@pytest.mark.parametrize(
    ("first", "second", "agreed", "pairs"),
    [
        ([0, 1, 2], [0, 1, 2], 3, 3),
        ([0, 1, 2], [2, 1, 0], 0, 3),
        ([0, 1, 2], [0, 2, 1], 2, 3),
        ([0, 1, 1, 2], [0, 1, 2, 3], 5, 5),  # the second's order of the tied pair is not asked
        ([0, 1, 1, 2], [3, 2, 2, 0], 0, 5),
        ([0, 0, 1], [0, 1, 0], 0, 1),
        ([0, 0], [1, 0], 0, 0),
    ],
)
def test_agreement_counts_the_pairs_that_neither_ranking_leaves_tied(
    first: list[int], second: list[int], agreed: int, pairs: int
) -> None:
    assert pairwise_agreement(first, second) == Agreement(agreed, pairs)


def test_agreement_adds_up_over_tasks_by_pairs() -> None:
    total = Agreement(3, 6) + Agreement(1, 1)
    assert total == Agreement(4, 7)
    assert total.rate == pytest.approx(4 / 7)
    assert Agreement(0, 0).rate is None


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ([1.0, 2.0], [1.0, 3.0], 0.375),  # 1-1 half, 1-3 lost, 2-1 won, 2-3 lost
        ([0.0], [0.0], 0.5),
        ([5.0, 5.0], [1.0, 2.0, 3.0], 1.0),
        ([1.0, 2.0], [5.0], 0.0),
    ],
)
def test_a_win_share_goes_over_all_pairs_with_ties_half(
    ours: list[float], theirs: list[float], share: float
) -> None:
    assert win_share(ours, theirs) == share
    assert win_share(theirs, ours) == 1 - share


def test_the_interval_of_equal_values_is_a_point() -> None:
    interval = bootstrap_mean([0.6] * 5)
    assert [interval.value, interval.low, interval.high] == pytest.approx([0.6] * 3)
    assert interval.n == 5


def test_the_interval_of_two_values_spans_both() -> None:
    # means of a resample of {0, 1}: 0 and 1 with probability 1/4 each, far over 2.5 %
    interval = bootstrap_mean([0.0, 1.0])
    assert (interval.value, interval.low, interval.high, interval.n) == (0.5, 0.0, 1.0, 2)


def test_the_interval_of_many_is_that_of_the_normal_law() -> None:
    # 50 zeros, 50 ones: standard error 0.05, so 0.5 -+ 1.96 * 0.05
    interval = bootstrap_mean([0.0, 1.0] * 50)
    assert interval.low == pytest.approx(0.402, abs=0.011)
    assert interval.high == pytest.approx(0.598, abs=0.011)


def test_the_interval_is_the_same_each_time_and_moves_with_the_seed() -> None:
    values = [0.1, 0.4, 0.45, 0.8, 0.95, 0.3, 0.77]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_mean([])
