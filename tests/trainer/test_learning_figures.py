"""Intervals and frontiers of the learning scripts, by numbers worked by hand."""

import math

import pytest

from bench.learning.figures import (
    Interval,
    Point,
    between,
    equal_kl,
    over_items,
    over_runs,
    path_of,
    reward_at,
    verdict,
    wilson,
)


def test_three_runs_have_students_interval() -> None:
    """1, 2, 3: mean 2, deviation 1, 4.303 / sqrt(3) to either side."""
    mean, low, high, n = over_runs([1.0, 2.0, 3.0])
    half = 4.303 / math.sqrt(3)
    assert (mean, n) == (2.0, 3)
    assert [low, high] == pytest.approx([2 - half, 2 + half])


def test_five_folds_and_one_run() -> None:
    """0.5 to 0.7 by 0.05: the deviation is sqrt(0.025 / 4), the half-width 2.776 of it / sqrt(5)."""
    found = over_runs([0.5, 0.55, 0.6, 0.65, 0.7])
    assert found.high == pytest.approx(0.6 + 2.776 * math.sqrt(0.025 / 4) / math.sqrt(5))
    assert over_runs([4.0]) == Interval(4.0, None, None, 1)


def test_a_share_has_wilsons_interval() -> None:
    """8 of 10: 0.490 to 0.943, as published tables have it."""
    share, low, high, n = wilson(8, 10)
    assert (share, n) == (0.8, 10)
    assert [low, high] == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_the_held_out_pairs_of_all_folds_are_known_to_about_two_points() -> None:
    found = wilson(0.65 * 1825, 1825)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(0.022, abs=0.001)


def test_the_bootstrap_over_items_agrees_with_the_binomial() -> None:
    """Of 400 items half are 1: 1.96 x 0.5 / 20 = 0.049 to either side."""
    found = over_items([0.0, 1.0] * 200)
    assert found.value == 0.5
    assert [found.low, found.high] == pytest.approx([0.451, 0.549], abs=0.006)
    assert over_items([3.0] * 7) == Interval(3.0, 3.0, 3.0, 7)
    assert over_items([0.0, 1.0] * 200) == found


# ---- reward against KL ----------------------------------------------------------------------------


def test_a_path_has_the_means_of_blocks_in_order_of_kl() -> None:
    points = [
        Point(0, 0),
        Point(2, 1),
        Point(9, 5),
        Point(7, 3),
        Point(4, 2),
        Point(4, 4),
        Point(99, 9),
    ]
    assert path_of(points, 2) == [Point(1, 0.5), Point(4, 3), Point(8, 4)]


def test_reward_between_two_points_is_on_their_line_and_beyond_them_unknown() -> None:
    path = [Point(0, 0), Point(2, 4), Point(2, 6), Point(6, 8)]
    assert reward_at(path, 0.5) == pytest.approx(1.0)
    assert reward_at(path, 5) == pytest.approx(7.5)
    assert reward_at(path, 6) == 8
    assert reward_at(path, 6.1) is None
    assert reward_at([Point(1, 1), *path[1:]], 0.9) is None


def test_sides_are_compared_seed_by_seed_where_both_were() -> None:
    """At KL 1 ours has 2 and 4, theirs 1 and 2; at KL 3 only the first pair of runs has been."""
    ours = [[Point(0, 0), Point(4, 8)], [Point(0, 2), Point(2, 6)]]
    theirs = [[Point(0, 0), Point(4, 4)], [Point(0, 2), Point(4, 2)]]
    one, three = equal_kl(ours, theirs, [1, 3, 9])
    assert one["ours"]["value"] == 3 and one["peer"]["value"] == 1.5
    half = 12.706 * math.sqrt(0.5) / math.sqrt(2)
    assert one["difference"]["value"] == 1.5
    assert one["difference"]["low"] == pytest.approx(1.5 - half, abs=1e-4)
    assert (three["kl"], three["ours"]["value"], three["ours"]["n"]) == (3, 6, 1)
    assert three["difference"]["low"] is None


def test_the_mean_difference_is_over_the_kls_that_both_paths_of_a_pair_cover() -> None:
    """From KL 1 to 3 one lies 1 above; between 2 and 4 the other goes from 0 to 2 below."""
    flat, above = [Point(0, 0.0), Point(3, 0.0)], [Point(1, 1.0), Point(4, 1.0)]
    falling, level = [Point(2, 0.0), Point(5, -3.0)], [Point(0, 0.0), Point(4, 0.0)]
    apart = [Point(7, 0.0), Point(9, 0.0)]
    found = between([above, falling, apart], [flat, level, flat])
    assert found is not None
    assert found.n == 2
    assert found.value == pytest.approx((1 - 1) / 2)
    assert between([apart], [flat]) is None


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (None, "nothing can be said"),
        (Interval(1.0, None, None, 1), "nothing can be said"),
        (Interval(1.0, 0.5, 1.5, 3), "Ours reaches a higher reward"),
        (Interval(-1.0, -1.5, -0.5, 3), "The peer reaches a higher reward"),
        (Interval(0.1, -0.1, 0.3, 3), "Both reach the same frontier: ours less the peer's"),
    ],
)
def test_the_verdict_says_what_the_interval_allows(whole: Interval | None, said: str) -> None:
    assert said in verdict(whole)
