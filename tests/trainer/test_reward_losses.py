"""The reward model's other losses, against hand-worked numbers, and how a run takes them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from tests.trainer.snapshots import comparison_row, write_all, write_snapshot
from trainer import losses, reward
from trainer.config import RewardConfig, config_from_plain
from trainer.data import Ranking, load_rankings
from trainer.errors import ConfigError
from trainer.models import ScalarModel, trainable
from trainer.text import Codec

CPU = torch.device("cpu")


def full(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def close(got: Tensor, want: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), atol=atol, rtol=0)


# ---- the best of K -------------------------------------------------------------------------


def test_the_best_of_three_has_the_hand_worked_cross_entropy() -> None:
    # softmax of (2, 1, 0) at 1: e / (e^2 + e + 1) = 0.244728, whose -log is 1.407606
    got = losses.best_of_k_loss(tensor([[2.0, 1.0, 0.0]]), tensor([[1, 0, 2]]), full(1, 3), 1)
    close(got, 1.407606)


def test_several_best_share_the_target() -> None:
    # -log softmax of (2, 1, 0) is (0.407606, 1.407606, 2.407606); the first and the last tie
    got = losses.best_of_k_loss(tensor([[2.0, 1.0, 0.0]]), tensor([[0, 1, 0]]), full(1, 3), 1)
    close(got, (0.407606 + 2.407606) / 2)


def test_places_after_the_first_do_not_matter_to_the_best_of_k() -> None:
    scores = torch.randn(1, 5, generator=torch.manual_seed(0))
    one = losses.best_of_k_loss(scores, tensor([[0, 1, 2, 3, 4]]), full(1, 5), 1)
    close(losses.best_of_k_loss(scores, tensor([[0, 4, 1, 1, 2]]), full(1, 5), 1), one)


@pytest.mark.parametrize(
    "extra", [{}, {"margin": 0.7}, {"smoothing": 0.1}, {"margin": 1.5, "smoothing": 0.2}]
)
def test_of_two_answers_both_losses_are_one(extra: dict[str, float]) -> None:
    scores, ranks = tensor([[0.3, -1.1], [0.3, -1.1]]), tensor([[0, 1], [1, 0]])
    best = losses.best_of_k_loss(scores, ranks, full(2, 2), 2, **extra)
    close(best, losses.ranking_loss(scores, ranks, full(2, 2), 2, **extra))


def test_the_best_of_k_sees_neither_padding_nor_a_ranking_that_is_all_ties() -> None:
    ranks = tensor([[1, 0, 0], [0, 0, 0]])
    mask = tensor([[True, True, False], [True, True, True]])
    scores = tensor([[1.0, 3.0, math.inf], [1.0, 2.0, 3.0]], requires_grad=True)
    loss = losses.best_of_k_loss(scores, ranks, mask, 1)
    close(loss, math.log(1 + math.exp(-2)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0 and (scores.grad[1] == 0).all()
    assert scores.grad[0, 1] == pytest.approx(-1 / (1 + math.exp(2)))


# ---- ties as an outcome --------------------------------------------------------------------


def test_a_modelled_tie_has_the_hand_worked_loss() -> None:
    # eta = log 2, so theta = 2. Scores log 3 and 0: strengths 3 and 1.
    # above: 3 / (3 + 2) = 0.6; below: 1 / (1 + 6) = 1/7; level: 1 - 0.6 - 1/7 = 9/35
    scores, eta = tensor([[math.log(3), 0.0]]), math.log(2)
    for ranks, chance in (([0, 1], 0.6), ([1, 0], 1 / 7), ([0, 0], 9 / 35)):
        got = losses.ranking_loss(scores, tensor([ranks]), full(1, 2), 1, tie_threshold=eta)
        close(got, -math.log(chance))


def test_two_equal_scores_tie_with_the_stated_probability() -> None:
    for eta in (0.1, 0.5, 2.0):
        got = losses.ranking_loss(
            torch.zeros(1, 2), tensor([[0, 0]]), full(1, 2), 1, tie_threshold=eta
        )
        close(got, -math.log(math.tanh(eta / 2)))


def test_a_ranking_with_a_tie_is_the_mean_over_all_its_pairs() -> None:
    scores, ranks = tensor([[1.0, 0.2, -0.4]]), tensor([[0, 0, 1]])
    pairs = [
        losses.ranking_loss(scores[:, two], ranks[:, two], full(1, 2), 1, tie_threshold=0.5)
        for two in ([0, 1], [0, 2], [1, 2])
    ]
    got = losses.ranking_loss(scores, ranks, full(1, 3), 1, tie_threshold=0.5)
    close(got, torch.stack(pairs).mean())


def test_a_modelled_tie_pulls_its_scores_together() -> None:
    scores = tensor([[1.0, 0.0]], requires_grad=True)
    losses.ranking_loss(scores, tensor([[0, 0]]), full(1, 2), 1, tie_threshold=0.5).backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]


def test_log_odds_between_untied_answers_are_those_of_the_tie_model() -> None:
    # the numbers above: 0.6 against 1/7
    got = losses.pair_log_odds(tensor([math.log(3)]), math.log(2))
    close(got, [math.log(0.6 * 7)])
    close(losses.pair_log_odds(tensor([1.25])), [1.25])
    close(losses.pair_log_odds(tensor([1.25]), 1e-6), [1.25], atol=1e-5)


# ---- margin, smoothing, penalty ------------------------------------------------------------


def test_a_margin_is_taken_off_the_difference_of_each_ranking() -> None:
    scores, ranks = tensor([[2.0, 0.5], [2.0, 0.5]]), tensor([[0, 1], [0, 1]])
    got = losses.ranking_loss(scores, ranks, full(2, 2), 2, margin=tensor([0.5, 2.0]))
    close(got, (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(0.5))) / 2)


def test_smoothing_gives_the_opposite_label_its_weight() -> None:
    got = losses.ranking_loss(tensor([[1.5, 0.0]]), tensor([[0, 1]]), full(1, 2), 1, smoothing=0.1)
    close(got, 0.9 * math.log(1 + math.exp(-1.5)) + 0.1 * math.log(1 + math.exp(1.5)))


def test_the_penalty_is_the_mean_square_of_each_rankings_scores() -> None:
    scores = tensor([[1.0, 2.0, 99.0], [3.0, -3.0, 0.0]])
    mask = tensor([[True, True, False], [True, True, True]])
    close(losses.score_penalty(scores, mask, 2), ((1 + 4) / 2 + (9 + 9 + 0) / 3) / 2)


@pytest.mark.parametrize("margin", [0.5, torch.tensor([0.5, 1.0])], ids=["one", "each"])
@pytest.mark.parametrize("loss", [losses.ranking_loss, losses.best_of_k_loss])
def test_a_margin_made_elsewhere_goes_to_the_device_of_the_scores(loss: Any, margin: Any) -> None:
    """The meta device refuses tensors of the CPU, as an accelerator does."""
    scores = torch.empty(2, 3, device="meta")
    ranks = torch.zeros(2, 3, dtype=torch.long, device="meta")
    mask = torch.ones(2, 3, dtype=torch.bool, device="meta")
    assert loss(scores, ranks, mask, 2, margin=margin, smoothing=0.1).device.type == "meta"


@pytest.mark.parametrize("loss", [losses.ranking_loss, losses.best_of_k_loss])
def test_the_defaults_are_the_plain_losses_to_the_bit(loss: Any) -> None:
    scores = torch.randn(6, 4, generator=torch.manual_seed(2))
    ranks = torch.randint(0, 3, (6, 4), generator=torch.manual_seed(3))
    plain = loss(scores, ranks, full(6, 4), 6)
    assert torch.equal(plain, loss(scores, ranks, full(6, 4), 6, margin=0.0, smoothing=0.0))


# ---- in a run ------------------------------------------------------------------------------


def rankings_of(tmp_path: Path, model: Path, ties: bool = False) -> list[Ranking]:
    return load_rankings(
        write_all(tmp_path)["comparisons"], Codec.load(model), 200, ties=ties
    ).train


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "best_of_k", "label_smoothing": 0.1},
        {"ties": "model", "margin": 0.5, "l2": 0.3},
        {"margin": 0.5, "margin_by_strength": True, "label_smoothing": 0.05, "l2": 0.1},
    ],
    ids=["best of K", "ties", "margin by strength"],
)
def test_micro_batches_of_one_ranking_give_the_gradient_of_the_whole_batch(
    tmp_path: Path, tiny_llama: Path, changes: dict[str, Any]
) -> None:
    rankings = rankings_of(tmp_path, tiny_llama)
    rankings = [r._replace(strength=i / 4) for i, r in enumerate(rankings)]
    rankings[1] = rankings[1]._replace(ranks=[0] * len(rankings[1].ranks), strength=None)
    found = []
    for micro in (10**6, 1):
        model = ScalarModel.fresh(tiny_llama, 0, "fp32", CPU, pad_id=0, seed=0)
        config = RewardConfig(out="", micro_tokens=micro, **changes)
        loss = reward.backward_loss(model, rankings, 0, config).loss
        grads = {n: p.grad for n, p in trainable(model.model).items() if p.grad is not None}
        found.append((loss, grads))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-5, rtol=1e-4)


def test_the_margin_goes_by_the_strength_a_ranking_states_and_is_whole_where_it_states_none(
    tmp_path: Path, tiny_llama: Path
) -> None:
    (ranking, *_) = rankings_of(tmp_path, tiny_llama)
    model = ScalarModel.fresh(tiny_llama, 0, "fp32", CPU, pad_id=0, seed=0)

    def loss(strength: float | None, **changes: Any) -> float:
        config = RewardConfig(out="", **changes)
        return reward.backward_loss(model, [ranking._replace(strength=strength)], 0, config).loss

    by_strength = {"margin": 0.5, "margin_by_strength": True}
    assert loss(2.0, **by_strength) == pytest.approx(loss(None, margin=1.0))
    assert loss(None, **by_strength) == pytest.approx(loss(2.0, margin=0.5))
    assert loss(0.0, **by_strength) == pytest.approx(loss(None))


def test_a_ranking_that_is_all_ties_is_left_out_unless_ties_are_modelled(
    tmp_path: Path, tiny_llama: Path
) -> None:
    whole = comparison_row(1)
    tied = comparison_row(2, rank_groups=(tuple(o.id for o in comparison_row(2).outputs),))
    folder = write_snapshot(tmp_path / "s", "comparisons", [whole, tied])
    codec = Codec.load(tiny_llama)
    dropped = load_rankings(folder, codec, 200)
    assert (len(dropped.train), dropped.notes) == (1, ("1 rankings were all ties.",))
    kept = load_rankings(folder, codec, 200, ties=True)
    assert (len(kept.train), kept.notes) == (2, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'; it must be one of 'pairwise', 'best_of_k'"),
        ({"ties": "model", "loss": "best_of_k"}, "set loss to 'pairwise', or ties to 'drop'"),
        ({"tie_threshold": 0}, "tie_threshold is 0.0; it must be above 0"),
        ({"margin": -1}, "margin is -1.0; it must be 0 or more"),
        ({"l2": -0.1}, "l2 is -0.1; it must be 0 or more"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5; it must be 0 or more and under 0.5"),
        ({"folds_by": "labeler"}, "folds_by is 'labeler'; it must be one of 'labeler_group'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_plain("reward", {"out": "o"} | change)
