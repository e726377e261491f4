"""The mathematics of the three stages: tensors in, tensors out, nothing else.

Shapes: B sequences, T positions, K answers of one ranking. A mask is boolean and true at real
positions. Padded positions are replaced by zero before anything is computed from them, so that
whatever a model put there (infinities included) reaches neither a loss nor a gradient.

A loss that is a mean takes the number to divide by as an argument: the caller counts over the
whole optimiser step, so that the sum over micro-batches is the loss of the undivided batch.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import KLEstimator


def real(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` with zero at padded positions; the gradient there is exactly zero too."""
    return torch.where(mask, values, values.new_zeros(()))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over real positions, a scalar; 0 where there is none."""
    return real(values, mask).sum() / mask.sum().clamp(min=1)


def masked_whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """``values`` [B, T] scaled to variance 1 over real positions; padded positions are 0.

    The variance is the biased one (divided by n). With ``shift_mean`` the mean becomes 0,
    without it the mean stays what it was. Call it on the whole rollout batch.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    white = (values - mean) * torch.rsqrt(variance + 1e-8)
    return real(white if shift_mean else white + mean, mask)


# ---- supervised fine-tuning, and the pretraining term of PPO-ptx --------------------------


def token_loss(logprobs: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """Cross-entropy, a scalar: minus the sum of ``logprobs`` over ``mask``, divided by ``tokens``.

    ``tokens`` is the number of target tokens in the whole optimiser step.
    """
    return -real(logprobs, mask).sum() / tokens


def perplexity(loss: float) -> float:
    """e to a cross-entropy in nats per token; infinite where no float is as large."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


# ---- reward model -------------------------------------------------------------------------


def untied_pairs(ranks: Tensor, mask: Tensor) -> Tensor:
    """[B, K, K], true at (i, j) where answer i of a ranking was placed above answer j.

    ``ranks`` [B, K]: 0 is best, equal is a tie; ``mask`` [B, K] is false where a ranking has
    fewer than K answers.
    """
    above = ranks[:, :, None] < ranks[:, None, :]
    return above & mask[:, :, None] & mask[:, None, :]


def tied_pairs(ranks: Tensor, mask: Tensor) -> Tensor:
    """[B, K, K], true at (i, j), i < j, where two answers share a place: each pair once."""
    level = ranks[:, :, None] == ranks[:, None, :]
    return (level & mask[:, :, None] & mask[:, None, :]).triu(1)


def ranking_loss(
    scores: Tensor,
    ranks: Tensor,
    mask: Tensor,
    rankings: int,
    *,
    margin: Tensor | float = 0.0,
    smoothing: float = 0.0,
    tie_threshold: float | None = None,
) -> Tensor:
    """K-wise ranking loss (InstructGPT equation 1), a scalar; tensors [B, K].

    Each ranking contributes the mean of -log sigmoid(score of better - score of worse) over its
    untied pairs, so a ranking of 9 weighs as much as a ranking of 4; one with no untied pair
    contributes nothing. The sum is divided by ``rankings``, the number of rankings with at least
    one untied pair in the whole optimiser step.

    ``margin``, a number or [B], is taken off every difference. ``smoothing`` is the weight of the
    opposite label. With ``tie_threshold`` eta > 0 ties are outcomes too (Rao and Kupper 1967): i
    is above j with probability sigmoid(s_i - s_j - eta), below with sigmoid(s_j - s_i - eta), and
    level with what is left; the mean is then over all pairs.
    """
    pairs = untied_pairs(ranks, mask)
    scores = real(scores, mask)
    behind = scores[:, None, :] - scores[:, :, None]  # [B, K, K] by how much j is ahead of i
    offset = torch.as_tensor(margin).reshape(-1, 1, 1).to(scores) + (tie_threshold or 0.0)
    losses = F.softplus(behind + offset)
    if smoothing > 0:
        losses = (1 - smoothing) * losses + smoothing * F.softplus(offset - behind)
    losses = real(losses, pairs)
    if tie_threshold is not None:
        ties = tied_pairs(ranks, mask)
        level = F.softplus(tie_threshold + behind) + F.softplus(tie_threshold - behind)
        losses = losses + real(level - math.log(math.expm1(2 * tie_threshold)), ties)
        pairs = pairs | ties
    return (losses.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)).sum() / max(rankings, 1)


def best_of_k_loss(
    scores: Tensor,
    ranks: Tensor,
    mask: Tensor,
    rankings: int,
    *,
    margin: Tensor | float = 0.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of picking the best of K (arXiv 1909.08593 equation 1), a scalar; tensors [B, K].

    Each ranking contributes -log softmax(scores) at its best answer; several tied best share the
    target evenly, and a ranking that is all ties names no best and contributes nothing. The sum
    is divided by ``rankings``. ``margin`` is added to the score of every answer of another rank
    than the one picked; ``smoothing`` is the weight of the answers that are not best, evenly. Of
    two answers it is ``ranking_loss``.
    """
    scores = real(scores, mask)
    first = ranks.masked_fill(~mask, torch.iinfo(ranks.dtype).max).amin(1, keepdim=True)
    best, rest = mask & (ranks == first), mask & (ranks != first)
    margins = torch.as_tensor(margin).reshape(-1, 1, 1).to(scores)
    ahead = margins * (ranks[:, :, None] != ranks[:, None, :])
    behind = scores[:, None, :] - scores[:, :, None] + ahead
    costs = torch.logsumexp(behind.masked_fill(~mask[:, None, :], -math.inf), 2)  # -log p(i)
    target = (1 - smoothing) * best / best.sum(1, keepdim=True).clamp(min=1)
    target = target + smoothing * rest / rest.sum(1, keepdim=True).clamp(min=1)
    return (real(target * costs, mask).sum(1) * rest.any(1)).sum() / max(rankings, 1)


def score_penalty(scores: Tensor, mask: Tensor, rankings: int) -> Tensor:
    """Mean square of the scores [B, K] of each ranking, summed and divided by ``rankings``."""
    squares = (real(scores, mask) ** 2).sum(1)
    return (squares / mask.sum(1).clamp(min=1)).sum() / max(rankings, 1)


def pair_log_odds(differences: Tensor, tie_threshold: float | None = None) -> Tensor:
    """Log odds that the first of two untied answers is the better, from score differences.

    The differences themselves, unless ties are modelled: then those of ``ranking_loss``'s model
    given that there is no tie.
    """
    if tie_threshold is None:
        return differences
    return F.softplus(tie_threshold + differences) - F.softplus(tie_threshold - differences)


def calibration_error(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> Tensor:
    """Expected calibration error, a scalar: both arguments [N], outcomes 0 or 1.

    Mean over ``bins`` equal bins of |mean probability - rate of outcomes|, weighted by count.
    """
    gaps = calibration_gaps(probabilities, outcomes, bins)
    return gaps.abs().sum() / max(len(probabilities), 1)


def calibration_gaps(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> Tensor:
    """Sum of probability - outcome in each bin, [bins]: those of several sets add up."""
    index = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=probabilities.dtype)
    return gaps.index_add(0, index, probabilities - outcomes)


# ---- PPO ----------------------------------------------------------------------------------


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Per-token estimate of KL(policy || reference) in nats from samples of the policy.

    k1 is unbiased and can be negative; k2 is never negative but biased; k3 is both unbiased and
    never negative (Schulman, "Approximating KL divergence").
    """
    delta = logprobs - reference
    if estimator == "k1":
        return delta
    if estimator == "k2":
        return delta**2 / 2
    return torch.exp(-delta) - 1 + delta


def end_scores(
    scores: Tensor, finished: Tensor, replaced_by: float | None, penalty: float
) -> Tensor:
    """Scores [B] where an answer that was cut (``finished`` [B] false) has its own replaced by
    ``replaced_by``, if that is a number, or else lowered by ``penalty``.
    """
    cut = scores - penalty if replaced_by is None else scores.new_tensor(replaced_by)
    return torch.where(finished, scores, cut)


def shape_rewards(
    scores: Tensor,
    logprobs: Tensor,
    reference: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: KLEstimator = "k1",
) -> Tensor:
    """Reward of every response token [B, T] (InstructGPT equation 2, first two terms).

    ``scores`` [B] is added once, at the last real token; every token pays ``kl_coef`` times
    its KL estimate, by k1 ``logprobs - reference``. The sum of a row is score - kl_coef * KL.
    """
    rewards = -kl_coef * real(kl_estimate(logprobs, reference, estimator), mask)
    last = mask.sum(1, keepdim=True).clamp(min=1) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


class Advantages(NamedTuple):
    """What generalised advantage estimation gives, 0 at padded positions."""

    advantages: Tensor  # [B, T]
    returns: Tensor  # [B, T] targets of the value model


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (arXiv 1506.02438); arguments [B, T], padded on the right.

    ``values`` [:, t] is the value of the state in which token t was chosen; after the last real
    token the value is 0.
    """
    rewards, values = real(rewards, mask), real(values, mask)
    advantages = torch.zeros_like(rewards)
    following_value = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following = delta + gamma * lam * following
        advantages[:, t] = following
        following_value = values[:, t]
    advantages = real(advantages, mask)
    return Advantages(advantages, real(advantages + values, mask))


@torch.no_grad()
def importance_weights(logprobs: Tensor, drawn: Tensor, mask: Tensor, cap: float) -> Tensor:
    """min(pi / mu, cap) of every answer token [B, T], 0 at padding; no gradient.

    ``logprobs`` are those of the policy pi at the start of the update, ``drawn`` those of mu, by
    which the tokens were drawn (truncated importance sampling, Ionides 2008). Cut in the
    exponent, so that no difference is too large.
    """
    log_ratio = real(logprobs - drawn, mask).clamp(max=math.log(cap))
    return real(torch.exp(log_ratio), mask)


class PolicyLoss(NamedTuple):
    """Scalars; the last two carry no gradient and are divided by ``tokens`` like the loss."""

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def policy_loss(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    tokens: int,
    weights: Tensor | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate (arXiv 1707.06347 equation 7), to minimise; arguments [B, T].

    ``weights``, through which no gradient goes, multiply each token's surrogate.
    """
    log_ratio = real(logprobs - old, mask)
    ratio = torch.exp(log_ratio)
    advantages = real(advantages, mask)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if weights is not None:
        surrogate = surrogate * real(weights.detach(), mask)
    loss = -surrogate.sum() / tokens
    with torch.no_grad():
        outside = real(((ratio - 1).abs() > clip).float(), mask).sum() / tokens
        approx_kl = kl_estimate(torch.zeros_like(log_ratio), log_ratio, "k3").sum() / tokens
    return PolicyLoss(loss, outside, approx_kl)


def value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float, tokens: int
) -> Tensor:
    """Half the larger of the clipped and unclipped squared errors, a scalar; arguments [B, T]."""
    values, old, returns = real(values, mask), real(old, mask), real(returns, mask)
    clipped = old + (values - old).clamp(-clip, clip)
    worse = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return real(worse, mask).sum() / (2 * tokens)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over real positions, a scalar; 1 is perfect."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    return 1 - variance(returns - values) / variance(returns).clamp(min=1e-8)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The adaptive KL coefficient of arXiv 1909.08593 section 2.2, after ``episodes`` more.

    ``kl`` and ``target`` are nats per answer: sums over its tokens, never means.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


@torch.no_grad()
def ema_update(average: Iterable[Tensor], current: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * current, in place."""
    for mean, now in zip(average, current, strict=True):
        mean.lerp_(now.to(mean.dtype), 1 - decay)


# ---- best of n, which trains nothing --------------------------------------------------------


def best_of_n_kl(n: int) -> float:
    """Nats an answer that is the best of n differs by from one of the policy, at most: log n -
    (n - 1) / n (arXiv 2401.01879: a bound, and exact where no two answers are alike).
    """
    return math.log(n) - (n - 1) / n


def expected_best(scores: Tensor, n: int) -> Tensor:
    """Expected best of n draws [P] from the scores [P, K] of K >= n draws of each prompt.

    The mean over all subsets of n, without bias: the i-th lowest of K is the best of
    C(i - 1, n - 1) of the C(K, n) subsets.
    """
    count = scores.shape[1]
    weights = [math.comb(i, n - 1) / math.comb(count, n) for i in range(count)]
    return scores.double().sort(1).values @ scores.new_tensor(weights, dtype=torch.float64)
