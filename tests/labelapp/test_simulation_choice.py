"""How simulated labelers choose: utilities, noise, its scale, and orders that are always valid."""

import math
import random
from itertools import combinations

import pytest

from labelapp.services.labels import groups_checked
from labelapp.simulation.choice import (
    Chooser,
    expected_agreement,
    gumbel,
    scale_for_agreement,
    tie_groups,
    untied_differences,
)
from labelapp.simulation.statistics import Agreement, pairwise_agreement
from trainer.known_rewards import concise

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def text_of(words: int, ending: str = "") -> str:
    return " ".join(WORDS[i % 10] for i in range(words)) + ending


def answer_sets(count: int, seed: int = 0) -> list[list[str]]:
    """Sets of four, some of them with answers twice."""
    draw = random.Random(seed)
    sets = [
        [text_of(draw.randint(1, 45), draw.choice(["", "", ".", "?"])) for _ in range(4)]
        for _ in range(count)
    ]
    for texts in sets[::9]:
        texts[3] = texts[0]
    return sets


def ranks_of(groups: list[list[int]]) -> list[int]:
    rank = {index: place for place, group in enumerate(groups) for index in group}
    return [rank[index] for index in range(len(rank))]


def test_noise_depends_on_its_key_alone_and_is_gumbel_distributed() -> None:
    draws = [gumbel(f"key {i}") for i in range(20_000)]
    assert draws[:3] == [gumbel(f"key {i}") for i in range(3)]
    mean = sum(draws) / len(draws)
    variance = sum((draw - mean) ** 2 for draw in draws) / len(draws)
    assert mean == pytest.approx(0.5772, abs=0.03)
    assert variance == pytest.approx(math.pi**2 / 6, abs=0.1)


def test_a_better_answer_goes_first_as_often_as_luces_rule_says() -> None:
    # utilities 1 and 0 (30 words with and without an end), scale 1 / ln 3: p = 3/4
    chooser = Chooser(concise, scale=1 / math.log(3))
    texts = [text_of(30), text_of(30, ".")]
    first = sum(
        chooser.groups(labeler="a", assignment=str(i), texts=texts)[0] == [1] for i in range(8000)
    )
    assert first / 8000 == pytest.approx(0.75, abs=0.015)


def test_expected_agreement_of_a_pair_is_p_squared_plus_the_rest_squared() -> None:
    scale = 2.0  # p = 3/4 at a difference of 2 ln 3: 9/16 + 1/16 = 0.625; at 0: 1/2
    assert expected_agreement([2 * math.log(3)], scale) == pytest.approx(0.625)
    assert expected_agreement([2 * math.log(3), 0.0], scale) == pytest.approx(0.5625)
    assert expected_agreement([1e9], 1e-3) == pytest.approx(1.0)


def test_the_scale_of_one_pair_is_the_one_worked_by_hand() -> None:
    # p^2 + (1-p)^2 = 0.73 at p = (1 + sqrt(0.46)) / 2 = 0.839116; 1 / logit(p) = 0.605446
    assert scale_for_agreement([1.0], 0.73) == pytest.approx(0.605446, abs=1e-5)
    assert scale_for_agreement([10.0], 0.73) == pytest.approx(6.05446, abs=1e-4)


def test_without_differences_any_scale_will_do_and_nonsense_is_refused() -> None:
    assert scale_for_agreement([]) == 1.0
    assert scale_for_agreement([0.0, 0.0]) == 1.0
    assert scale_for_agreement([1.0, 0.0, 0.0], 0.73) < 1e-3  # 2/3 at best
    for agreement in (0.5, 1.0):
        with pytest.raises(ValueError, match="above 0.5"):
            scale_for_agreement([1.0], agreement)


def test_two_labelers_agree_on_73_percent_of_untied_pairs_of_given_sets() -> None:
    sets = answer_sets(1500)
    scale = scale_for_agreement(untied_differences(sets, concise), 0.73)
    chooser = Chooser(concise, scale)
    total = Agreement(0, 0)
    for i, texts in enumerate(sets):
        first, second = (
            ranks_of(chooser.groups(labeler=who, assignment=f"{who}{i}", texts=texts))
            for who in ("a", "b")
        )
        total += pairwise_agreement(first, second)
    assert total.pairs == len(untied_differences(sets, concise))
    assert total.rate == pytest.approx(0.73, abs=0.015)


def test_rankings_are_reproducible_and_differ_by_seed_labeler_and_assignment() -> None:
    texts = [text_of(n) for n in (27, 28, 29, 30, 31, 32, 33)]

    def ranked(seed: int = 0, labeler: str = "a", assignment: str = "1") -> list[list[int]]:
        chooser = Chooser(concise, 5.0, seed)
        return chooser.groups(labeler=labeler, assignment=assignment, texts=texts)

    assert ranked() == ranked()
    assert ranked() != ranked(seed=1)
    assert ranked() != ranked(labeler="b")
    assert ranked() != ranked(assignment="2")


def test_equal_texts_are_one_tie_and_nothing_else_is() -> None:
    texts = ["same", "other", " same\n", "Same"]
    assert tie_groups(texts) == [[0, 2], [1], [3]]
    groups = Chooser(concise, 1.0).groups(labeler="a", assignment="1", texts=texts)
    assert sorted(groups) == [[0, 2], [1], [3]]


def test_every_set_gets_an_order_that_the_server_takes() -> None:
    draw = random.Random(3)
    letters = "ABCDEFGHI"
    for case in range(300):
        k = draw.randint(2, 9)
        texts = [draw.choice(["", " ", "x", "x.", text_of(30), text_of(400)]) for _ in range(k)]
        chooser = Chooser(concise, draw.choice([1e-9, 0.5, 1e9]), seed=case)
        groups = chooser.groups(labeler="a", assignment="1", texts=texts)
        named = [[letters[i] for i in group] for group in groups]
        assert groups_checked(named, k) == named
        for one, two in combinations(groups, 2):
            assert texts[one[0]].strip() != texts[two[0]].strip()
