"""The mathematics, against hand-worked numbers. Rows of the numeric reference are named."""

import math

import pytest
import torch
from torch import Tensor, tensor

from trainer import losses


def full(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def close(got: Tensor, want: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), atol=atol, rtol=0)


# ---- masks ---------------------------------------------------------------------------------


def test_the_masked_mean_leaves_padding_out() -> None:
    mask = tensor([[True, True, False]])
    close(losses.masked_mean(tensor([[1.0, 3.0, 100.0]]), mask), 2.0)


def test_whitening_without_shift_has_the_biased_variance_of_the_known_grid() -> None:
    grid = torch.arange(1.2, 2.05, 0.1).reshape(3, 3)
    white = losses.masked_whiten(grid, full(3, 3), shift_mean=False)
    close(white[0], [0.0508, 0.4381, 0.8254], atol=1e-4)
    close(white.mean(), grid.mean(), atol=1e-5)


def test_whitening_gives_mean_zero_and_variance_one_over_real_positions_only() -> None:
    mask = tensor([[True, True, True, False], [True, False, False, False]])
    values = tensor([[1.0, 2.0, 3.0, 1e6], [6.0, -1e6, 1e6, 0.0]])
    white = losses.masked_whiten(values, mask)
    close(white[mask].mean(), 0.0)
    close(white[mask].var(unbiased=False), 1.0, atol=1e-5)
    assert (white[~mask] == 0).all()


# ---- supervised ----------------------------------------------------------------------------


def test_the_token_loss_over_micro_batches_sums_to_the_loss_of_the_whole_batch() -> None:
    logprobs = -torch.rand(8, 5, generator=torch.manual_seed(0))
    mask = torch.rand(8, 5, generator=torch.manual_seed(1)) < 0.6
    whole = losses.token_loss(logprobs, mask, int(mask.sum()))
    parts = [
        losses.token_loss(logprobs[i : i + 1], mask[i : i + 1], int(mask.sum())) for i in range(8)
    ]
    close(whole, -logprobs[mask].mean())
    close(torch.stack(parts).sum(), whole)


# ---- K-wise ranking (row 21) ---------------------------------------------------------------


def test_a_ranking_of_two_is_the_pairwise_loss() -> None:
    got = losses.ranking_loss(tensor([[1.0, -0.5]]), tensor([[0, 1]]), full(1, 2), 1)
    close(got, math.log(1 + math.exp(-1.5)))


def test_the_worse_answer_scoring_higher_costs_more() -> None:
    got = losses.ranking_loss(tensor([[1.0, -0.5]]), tensor([[1, 0]]), full(1, 2), 1)
    close(got, math.log(1 + math.exp(1.5)))


def test_three_answers_have_the_hand_worked_loss() -> None:
    # pairs (0,1): log(1+e^-1), (0,2): log(1+e^-3), (1,2): log(1+e^-2); mean 0.162932
    got = losses.ranking_loss(tensor([[3.0, 2.0, 0.0]]), tensor([[0, 1, 2]]), full(1, 3), 1)
    close(got, (0.3132617 + 0.0485874 + 0.1269280) / 3)


def test_the_order_in_which_answers_stand_does_not_matter() -> None:
    scores, ranks = torch.randn(1, 5, generator=torch.manual_seed(0)), tensor([[0, 1, 1, 2, 3]])
    order = tensor([4, 2, 0, 3, 1])
    one = losses.ranking_loss(scores, ranks, full(1, 5), 1)
    close(losses.ranking_loss(scores[:, order], ranks[:, order], full(1, 5), 1), one)


@pytest.mark.parametrize("k", range(2, 10))
def test_equal_scores_give_log_two_for_any_number_of_answers(k: int) -> None:
    got = losses.ranking_loss(torch.zeros(1, k), torch.arange(k)[None], full(1, k), 1)
    close(got, math.log(2))


def test_a_ranking_of_nine_pulls_as_hard_as_a_ranking_of_four() -> None:
    """At equal scores the gradient of the top answer is -1/K times two: (K-1)/2 / pairs."""

    def pull(k: int) -> Tensor:
        scores = torch.zeros(1, k, requires_grad=True)
        losses.ranking_loss(scores, torch.arange(k)[None], full(1, k), 1).backward()
        assert scores.grad is not None
        return scores.grad[0, 0]

    close(pull(4), -1 / 4)
    close(pull(9), -1 / 9)


def test_tied_answers_make_no_pair_and_an_all_tied_ranking_counts_for_nothing() -> None:
    scores = tensor([[5.0, 1.0, 0.0], [9.0, -9.0, 3.0]], requires_grad=True)
    ranks = tensor([[0, 0, 1], [0, 0, 0]])
    loss = losses.ranking_loss(scores, ranks, full(2, 3), 1)
    close(loss, (math.log(1 + math.exp(-5)) + math.log(1 + math.exp(-1))) / 2)
    loss.backward()
    assert scores.grad is not None and (scores.grad[1] == 0).all()


def test_rankings_of_different_sizes_share_a_batch_by_mask() -> None:
    scores = tensor([[1.0, 0.0, float("nan")], [2.0, 1.0, 0.0]])
    ranks, mask = tensor([[0, 1, 0], [0, 1, 2]]), tensor([[True, True, False], [True] * 3])
    alone = [
        losses.ranking_loss(scores[:1, :2], ranks[:1, :2], full(1, 2), 2),
        losses.ranking_loss(scores[1:], ranks[1:], full(1, 3), 2),
    ]
    close(losses.ranking_loss(scores, ranks, mask, 2), alone[0] + alone[1])


def test_the_calibration_error_is_the_gap_between_belief_and_rate() -> None:
    probabilities = tensor([0.9, 0.9, 0.9, 0.9, 0.2, 0.2])
    outcomes = tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    close(losses.calibration_error(probabilities, outcomes), (4 * 0.4 + 2 * 0.2) / 6)


# ---- KL (rows 4, 19, 23, 24) ---------------------------------------------------------------


def test_estimators_agree_with_the_exact_kl_of_a_categorical() -> None:
    p, q = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.3, 0.5])
    exact = (p * (p / q).log()).sum()
    draws = torch.multinomial(p, 200_000, replacement=True, generator=torch.manual_seed(0))
    logp, logq = p.log()[draws], q.log()[draws]
    estimates = {
        kind: losses.kl_estimate(logp, logq, kind)  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }
    close(estimates["k1"].mean(), exact, atol=0.01)
    close(estimates["k3"].mean(), exact, atol=0.01)
    assert estimates["k1"].min() < 0
    assert estimates["k2"].min() >= 0 and estimates["k3"].min() >= 0
    # k2 is biased: its mean is half the mean squared log ratio
    close(estimates["k2"].mean(), (p * (p / q).log() ** 2).sum() / 2, atol=0.01)
    assert abs(estimates["k2"].mean() - exact) > 0.01


def test_the_rewards_of_an_answer_sum_to_its_score_minus_beta_times_its_kl() -> None:
    mask = tensor([[True, True, True], [True, False, False]])
    logprobs = tensor([[-1.0, -2.0, -3.0], [-0.5, 7.0, 7.0]])
    reference = tensor([[-1.5, -1.0, -3.5], [-0.25, -7.0, 7.0]])
    rewards = losses.shape_rewards(tensor([2.0, -1.0]), logprobs, reference, mask, 0.1)
    close(rewards, [[-0.05, 0.1, 2.0 - 0.05], [-1.0 + 0.025, 0.0, 0.0]])


def test_a_policy_equal_to_its_reference_is_rewarded_with_the_score_alone() -> None:
    logprobs, mask = torch.randn(2, 4), full(2, 4)
    rewards = losses.shape_rewards(tensor([1.5, -2.0]), logprobs, logprobs, mask, 0.5)
    close(rewards, [[0, 0, 0, 1.5], [0, 0, 0, -2.0]])


@pytest.mark.parametrize(("kl", "want"), [(0.0, 0.148464), (6.0, 0.15), (12.0, 0.151536)])
def test_the_adaptive_coefficient_moves_towards_its_target(kl: float, want: float) -> None:
    assert losses.adapted_kl_coef(0.15, kl, 6.0, 512, 10_000) == pytest.approx(want, abs=1e-9)


# ---- advantages (rows 5, 12, 25, 26) -------------------------------------------------------


def test_advantages_have_the_hand_worked_numbers() -> None:
    rewards = tensor([[0.0, 0.0, 1.0]])
    got = losses.gae(rewards, torch.zeros(1, 3), full(1, 3), 1.0, 0.95)
    close(got.advantages, [[0.9025, 0.95, 1.0]])
    got = losses.gae(rewards, torch.full((1, 3), 0.5), full(1, 3), 1.0, 0.95)
    close(got.advantages, [[0.45125, 0.475, 0.5]])
    close(got.returns, [[0.95125, 0.975, 1.0]])


def test_returns_match_the_published_discounted_fixture() -> None:
    rewards = values = tensor([[0.0, 0.0, 0.0, 1.0]])
    got = losses.gae(rewards, values, full(1, 4), 0.9, 0.95)
    close(got.returns, [[0.9**3 * 0.95**2, 0.9**2 * 0.95, 0.9, 1.0]])


def test_undiscounted_returns_with_lambda_one_are_the_rewards_to_come() -> None:
    rewards, values = torch.randn(2, 5), torch.randn(2, 5)
    got = losses.gae(rewards, values, full(2, 5), 1.0, 1.0)
    close(got.returns, rewards.flip(1).cumsum(1).flip(1), atol=1e-5)


def test_a_short_answer_has_the_same_advantages_in_a_wider_batch() -> None:
    rewards, values = torch.randn(1, 3), torch.randn(1, 3)
    alone = losses.gae(rewards, values, full(1, 3), 0.9, 0.8)
    junk = torch.full((1, 2), float("nan"))
    mask = tensor([[True, True, True, False, False]])
    wide = losses.gae(torch.cat([rewards, junk], 1), torch.cat([values, junk], 1), mask, 0.9, 0.8)
    close(wide.advantages[:, :3], alone.advantages)
    assert (wide.advantages[:, 3:] == 0).all() and (wide.returns[:, 3:] == 0).all()


# ---- the clipped losses (rows 1, 5, 12, 30, 31) --------------------------------------------


def test_a_ratio_of_one_clips_nothing_and_whitened_advantages_cancel() -> None:
    logprobs = torch.randn(4, 6)
    mask = torch.rand(4, 6, generator=torch.manual_seed(2)) < 0.7
    white = losses.masked_whiten(torch.randn(4, 6), mask)
    got = losses.policy_loss(logprobs, logprobs, white, mask, 0.2, int(mask.sum()))
    close(got.loss, 0.0)
    assert got.clip_fraction == 0 and got.approx_kl == 0


def test_the_policy_loss_has_the_hand_worked_numbers() -> None:
    old = torch.zeros(1, 2)
    new = tensor([[math.log(1.1), math.log(0.9)]])
    got = losses.policy_loss(new, old, tensor([[2.0, -1.0]]), full(1, 2), 0.2, 2)
    close(got.loss, -(1.1 * 2.0 - 0.9) / 2)
    close(got.approx_kl, ((0.1 - math.log(1.1)) + (-0.1 - math.log(0.9))) / 2)


def test_padding_counts_in_no_figure_of_the_policy_loss() -> None:
    """Ratios 1.1, 0.7 and 1.3: two of three outside the clip; of each, k3 is r - 1 - log r."""
    mask = tensor([[True, True, False], [True, False, False]])
    old = tensor([[-1.0, -2.0, -0.3], [-0.5, -4.0, -5.0]])
    new = old + tensor([[1.1, 0.7, 3.0], [1.3, 0.5, 2.0]]).log()
    got = losses.policy_loss(new, old, tensor([[1.0, -1.0, 9.0], [2.0, 9.0, 9.0]]), mask, 0.2, 3)
    close(got.loss, -(1.1 - 0.8 + 2.4) / 3)
    close(got.clip_fraction, 2 / 3)
    close(got.approx_kl, (0.0046898 + 0.0566749 + 0.0376357) / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"), [(1.3, 1.0, 0), (0.7, -1.0, 0), (1.3, -1.0, 1.3), (0.7, 1.0, -0.7)]
)  # fmt: skip
def test_the_clip_stops_the_gradient_only_where_the_step_went_far_enough(
    ratio: float, advantage: float, gradient: float
) -> None:
    new = tensor([[math.log(ratio)]], requires_grad=True)
    got = losses.policy_loss(
        new, torch.zeros(1, 1), tensor([[advantage]]), full(1, 1), clip=0.2, tokens=1
    )
    got.loss.backward()
    assert new.grad is not None
    close(new.grad, [[gradient]])
    assert got.clip_fraction == 1


def test_importance_weights_are_the_probability_ratio_cut_at_the_cap() -> None:
    """0.3 / 0.2 = 1.5; 0.1 / 0.4 = 0.25; 0.9 / 0.1 = 9 is cut to 2; padding has none."""
    policy = tensor([[0.3, 0.1, 0.9, 1.0]]).log().requires_grad_()
    generator = tensor([[0.2, 0.4, 0.1, 0.5]]).log()
    mask = tensor([[True, True, True, False]])
    got = losses.importance_weights(policy, generator, mask, 2.0)
    close(got, [[1.5, 0.25, 2.0, 0.0]])
    assert not got.requires_grad
    far = losses.importance_weights(tensor([[0.0]]), tensor([[-9999.0]]), full(1, 1), 2.0)
    close(far, [[2.0]])


def test_weights_multiply_each_tokens_surrogate_after_the_clip() -> None:
    """1.1 * 2 with weight 0.5, and max(0.7, 0.8) * -1 = -0.8 with weight 1.5."""
    new = tensor([[math.log(1.1), math.log(0.7)]], requires_grad=True)
    weights = tensor([[0.5, 1.5]], requires_grad=True)
    got = losses.policy_loss(
        new, torch.zeros(1, 2), tensor([[2.0, -1.0]]), full(1, 2), 0.2, 2, weights
    )
    close(got.loss, -(0.5 * 1.1 * 2.0 - 1.5 * 0.8) / 2)
    got.loss.backward()
    assert new.grad is not None and weights.grad is None
    close(new.grad, [[-0.5 * 1.1 * 2.0 / 2, 0.0]])
    assert got.clip_fraction == 0.5, "what is reported has no weight"


def test_weights_of_one_change_no_bit_and_those_at_padding_nothing() -> None:
    noise = torch.manual_seed(0)
    new, old, advantages = (torch.randn(3, 5, generator=noise) for _ in range(3))
    mask = torch.arange(5) < tensor([[5], [3], [1]])
    plain = losses.policy_loss(new, old, advantages, mask, 0.2, 9)
    for junk in (1.0, float("inf"), float("nan")):
        weights = torch.where(mask, 1.0, junk)
        assert torch.equal(
            losses.policy_loss(new, old, advantages, mask, 0.2, 9, weights).loss, plain.loss
        )
    padded = torch.where(mask, 0.0, float("nan"))
    assert (losses.importance_weights(padded, padded, mask, 2.0) == mask.float()).all()


def test_the_value_loss_is_half_the_squared_error_inside_the_clip() -> None:
    got = losses.value_loss(
        tensor([[1.1, 0.9]]), tensor([[1.0, 1.0]]), tensor([[2.0, 0.0]]), full(1, 2), 0.2, 2
    )
    close(got, (0.9**2 + 0.9**2) / 2 / 2)


def test_the_value_loss_takes_the_larger_of_clipped_and_unclipped() -> None:
    # V went from 0 to 1 towards a return of 1: unclipped error 0, clipped (0.2 - 1)^2 = 0.64
    got = losses.value_loss(
        tensor([[1.0]]), tensor([[0.0]]), tensor([[1.0]]), full(1, 1), clip=0.2, tokens=1
    )
    close(got, 0.32)


def test_what_a_model_outputs_at_padding_reaches_neither_loss_nor_gradient() -> None:
    mask = tensor([[True, True, False], [True, False, False]])

    def run(junk: float) -> tuple[Tensor, Tensor]:
        output = tensor([[-1.0, -2.0, junk], [-0.5, junk, junk]], requires_grad=True)
        old = tensor([[-1.1, -1.9, 0.0], [-0.7, 0.0, 0.0]])
        loss = (
            losses.policy_loss(output, old, old, mask, 0.2, 3).loss
            + losses.value_loss(output, old, -old, mask, 0.2, 3)
            + losses.token_loss(output, mask, 3)
        )
        loss.backward()
        assert output.grad is not None
        return loss.detach(), output.grad

    for junk in (1e4, float("inf"), float("nan")):
        assert all(torch.equal(a, b) for a, b in zip(run(junk), run(0.0), strict=True))


def test_explained_variance_is_one_for_perfect_and_zero_for_constant_values() -> None:
    returns, mask = tensor([[1.0, 2.0, 3.0, 99.0]]), tensor([[True, True, True, False]])
    close(losses.explained_variance(returns, returns, mask), 1.0)
    close(losses.explained_variance(torch.zeros(1, 4), returns, mask), 0.0)


def test_the_start_weighs_decay_to_the_n_in_the_average_after_n_updates() -> None:
    average, now = [torch.ones(2)], [torch.zeros(2)]
    for _ in range(10):
        losses.ema_update(average, now, 0.992)
    close(average[0], [0.992**10] * 2)
