"""PPO with a pretraining mix (InstructGPT section 3.5, equation 2, and appendix C.4).

    maximise  E_(x,y)~pi [ r(x, y) - beta log(pi(y|x) / pi_SFT(y|x)) ]  +  gamma E_x~text [ log pi(x) ]

``train`` is the algorithm; each phase below it gives a NamedTuple. B episodes make a rollout
batch, R is its longest answer, and tensors of answers align at column 0: [B, R].
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import distributed, losses
from trainer.actors import Actors, Progress
from trainer.config import PPOConfig
from trainer.data import Prompt, own_micro_batches, shuffled
from trainer.models import states_before
from trainer.ppo_run import (
    Work,
    held_prompts,
    pause,
    pretraining_text,
    run_manifest,
    run_parents,
    save_models,
)
from trainer.pretrain_mix import null_space_of, pretrain_losses, remembered_loss
from trainer.rollout import (
    Rollout,
    Sampling,
    align,
    answer,
    episode_prompts,
    generator_figures,
    importance_weights,
)
from trainer.runtime import Checkpoints, check_finite, memory_apart, warm_up
from trainer.stage_io import Interrupted, Run, set_threads


def run(config: PPOConfig, run: Run) -> None:
    """Train the policy; write model/ and the manifest."""
    set_threads(config.threads)
    parents = run_parents(config)
    torch.manual_seed(config.seed)
    actors = Actors(config)
    prompts, text = held_prompts(config, actors), pretraining_text(config, actors)
    null_space = null_space_of(config, run, actors, text)  # at the start weights, so before
    progress = Progress(config, actors, Checkpoints(run.out, config, parents))  # those of now
    work = Work(config, run, actors, progress, prompts, text, null_space)
    with run.saved(progress.save):
        figures = train(work)
    with memory_apart():
        save_models(work)
    if distributed.is_main():
        run.finish(run_manifest(work, parents, figures))


def train(work: Work) -> dict[str, float]:
    """The algorithm. Returns the figures of the last rollout batch."""
    config, progress = work.config, work.progress
    figures: dict[str, float] = {}
    while progress.iteration < config.iterations:
        prompts = _prompts(work)
        rollout = collect_rollouts(work, prompts)  # 1. answers y ~ pi(.|x)
        scored = score(work, prompts, rollout)  # 2. r(x, y), log pi, log pi_SFT, V
        shaped = shape_rewards(
            config, rollout, scored, progress.kl_coef
        )  # 3. r - beta KL, then advantages
        update = optimise(work, rollout, scored, shaped)  # 4. policy, value and pretraining text
        figures = report(work, rollout, scored, shaped, update)  # 5.
    return figures


# ---- 1. rollouts ---------------------------------------------------------------------------------


def _prompts(work: Work) -> list[Prompt]:
    """The prompts of this rollout batch's episodes."""
    config, first = work.config, work.progress.iteration * work.config.batch
    episodes = range(first, min(first + config.batch, config.episodes))
    return episode_prompts(work.prompts.train, episodes, config.seed)


def collect_rollouts(work: Work, prompts: Sequence[Prompt]) -> Rollout:
    """Answers of the policy of now.

    Episode e has the same prompt and the same noise in any run with this seed. A rollout batch
    that a checkpoint found half used is taken from there.
    """
    config, actors, progress = work.config, work.actors, work.progress
    if progress.in_work:
        return Rollout(**progress.in_work["rollout"])
    first = progress.iteration * config.batch
    keys = [f"episode/{first + i}" for i in range(len(prompts))]
    how = Sampling.of(config)
    with memory_apart():
        return answer(actors.generator, prompts, keys, actors.codec, how, work.run.interrupt)


# ---- 2. scores -----------------------------------------------------------------------------------


class Scored(NamedTuple):
    """What the four models say of a rollout batch; no gradients."""

    logprobs: Tensor  # [B, R] of the policy that drew the answers, at its temperature
    entropy: Tensor  # [B, R] of the policy at each choice
    reference: Tensor  # [B, R] log-probabilities of the reference, at the same temperature
    values: Tensor  # [B, R] value of the state each token was chosen in
    scores: Tensor  # [B] reward model's, replaced or lowered where an answer was cut
    weights: Tensor | None = None  # [B, R] min(pi / mu, cap) if the generator mu is far from pi


@torch.no_grad()
def score(work: Work, prompts: Sequence[Prompt], rollout: Rollout) -> Scored:
    """Run the four models over the sampled ids, in micro-batches; nothing is encoded again.

    What is frozen is run here only: the update goes on from its hidden states.
    """
    config, actors, mask = work.config, work.actors, rollout.mask
    done = work.progress.in_work.get("scored")
    if done and not actors.keeps:
        return Scored(**done)
    tokenwise = [torch.zeros(mask.shape) for _ in range(4)]
    scores = torch.zeros(len(mask))
    actors.forget()
    idle = actors.idle(actors.policy, actors.reference, actors.value, actors.reward)
    check = work.run.interrupt
    with distributed.together(in_step=actors.policy.stack.in_step):
        for rows in own_micro_batches(rollout.widths, config.micro_tokens, idle=idle, check=check):
            batch = rollout.batch(rows, actors.codec.pad_id, actors.policy.stack.device)
            lower, value_lower = actors.lowers_kept(rows, batch)
            if done:
                continue
            sees: dict[str, Any] = {"lower": lower, "temperature": config.temperature}
            policy = actors.policy.choices(*batch, **sees)
            reference = actors.reference.logprobs(*batch, **sees)
            values = actors.value.values(batch.tokens, lower=value_lower)[states_before(*batch)]
            found = (policy.logprobs, policy.entropy, reference, values)
            for whole, flat in zip(tokenwise, found, strict=True):
                whole[rows] = align(flat.cpu(), mask[rows])
            scores[rows] = actors.scores(rollout, prompts, rows, batch, value_lower).cpu()
    if done:
        return Scored(**done)
    for whole in (*tokenwise, scores):
        distributed.add_up(whole)
    ended = torch.tensor(rollout.finished)
    scores = losses.end_scores(scores, ended, config.missing_end_score, config.missing_end_penalty)
    logprobs, entropy, references, state_values = tokenwise
    weights = importance_weights(config, rollout, logprobs)
    return Scored(logprobs, entropy, references, state_values, scores, weights)


# ---- 3. rewards and advantages -------------------------------------------------------------------


class Shaped(NamedTuple):
    """What the update learns from."""

    rewards: Tensor  # [B, R] -beta log(pi / pi_SFT) per token, the score added at the last one;
    # scaled over the whole rollout batch if the settings say so
    advantages: Tensor  # [B, R] whitened over the whole rollout batch if the settings say so
    returns: Tensor  # [B, R] targets of the value model, from unwhitened advantages


def shape_rewards(config: PPOConfig, rollout: Rollout, scored: Scored, kl_coef: float) -> Shaped:
    """The first two terms of the objective as per-token rewards, and advantages from them."""
    scores, logprobs, reference, mask = (
        scored.scores, scored.logprobs, scored.reference, rollout.mask
    )  # fmt: skip
    rewards = losses.shape_rewards(scores, logprobs, reference, mask, kl_coef, config.kl_estimator)
    if config.whiten_rewards:
        rewards = losses.masked_whiten(rewards, mask, shift_mean=False)
    advantages, returns = losses.gae(rewards, scored.values, mask, config.gamma, config.lam)
    if config.whiten_advantages:
        advantages = losses.masked_whiten(advantages, mask)
    return Shaped(rewards, advantages, returns)


# ---- 4. the update -------------------------------------------------------------------------------


class Update(NamedTuple):
    """Means over the optimiser steps of one rollout batch."""

    policy_loss: float
    value_loss: float
    pretrain_loss: float  # nats per token of the pretraining mix, before gamma; NaN without it
    clip_fraction: float
    approx_kl: float  # nats per token between the policies before and after
    gradient_norm: float
    value_gradient_norm: float
    null_space_kept: float  # share of the squared step that the null space left; NaN without it


def optimise(work: Work, rollout: Rollout, scored: Scored, shaped: Shaped) -> Update:
    """``epochs`` passes over the rollout batch, one optimiser step per minibatch.

    The update ends before a step whose minibatch says that the policy is too far away already.
    """
    config, progress = work.config, work.progress
    null_space = work.null_space if learns(work) else None
    factor = rate_factor(work)
    plan = _minibatches(config, len(rollout.answers), progress.iteration)
    for rows in plan[progress.place :]:
        windows = _windows(work, len(rows))
        try:
            with progress.optimiser.all_or_nothing():
                figures = accumulate_gradients(work, rollout, scored, shaped, rows, windows)
        except Interrupted:
            pause(work, rollout, scored)
        if config.target_kl_stop is not None and figures["approx_kl"] > config.target_kl_stop:
            progress.optimiser.clear()
            break
        with null_space.projecting() if null_space else nullcontext():
            norms = progress.optimiser.step(factor)  # one step for all three terms
        progress.meter.tokens += sum(rollout.widths[i] for i in rows) + sum(map(len, windows))
        figures |= dict(zip(("gradient_norm", "value_gradient_norm"), norms, strict=True))
        progress.after_step(figures | ({"null_space_kept": null_space.kept} if null_space else {}))
        if work.run.stopping and progress.place < len(plan):
            pause(work, rollout, scored)
    progress.in_work = {}  # of these episodes; what follows asks about others
    steps = max(progress.place, 1)
    return Update(*(progress.sums.get(name, math.nan) / steps for name in Update._fields))


def learns(work: Work) -> bool:
    """Whether the policy is trained in this rollout batch: in the first ones the value model may
    learn alone (``value_warmup``), because the reward model that it starts from says nothing of
    unfinished answers.
    """
    return work.progress.iteration >= work.config.value_warmup


def rate_factor(work: Work) -> float:
    """What the learning rates of this rollout batch are multiplied by."""
    batches = work.progress.iteration - work.config.value_warmup
    return warm_up(batches, work.config.warmup) if learns(work) else 1.0


def accumulate_gradients(
    work: Work,
    rollout: Rollout,
    scored: Scored,
    shaped: Shaped,
    rows: Sequence[int],
    windows: Sequence[list[int]],
) -> dict[str, float]:
    """Add the gradients of one minibatch: of the policy and value losses over the episodes
    ``rows``, and gamma times that of the pretraining loss over ``windows``. Returns figures.
    """
    config, actors, mask = work.config, work.actors, rollout.mask
    sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl"), 0.0)
    tokens, widths = int(mask[rows].sum()), [rollout.widths[i] for i in rows]
    idle = actors.idle(actors.value, *([actors.policy] if learns(work) else []))
    wholes = (mask, scored.logprobs, shaped.advantages, scored.values, shaped.returns)
    device, pad_id, pretrain = actors.policy.stack.device, actors.codec.pad_id, 0.0
    check = work.run.interrupt
    with distributed.together(in_step=actors.policy.stack.in_step):
        for group in own_micro_batches(widths, config.micro_tokens, idle=idle, check=check):
            part = [rows[i] for i in group]
            batch = rollout.batch(part, pad_id, device)
            lower, value_lower = actors.lowers_again(part, batch)
            real, old, advantages, old_values, returns = (
                whole[part].to(device) for whole in wholes
            )
            values = actors.value.values(batch.tokens, lower=value_lower)[states_before(*batch)]
            value_loss = losses.value_loss(
                align(values, real), old_values, returns, real, config.value_clip, tokens
            )
            (config.value_coef * value_loss).backward()  # type: ignore[no-untyped-call]
            sums["value_loss"] += float(value_loss.detach())
            if not learns(work):
                continue
            logprobs = actors.policy.logprobs(*batch, lower=lower, temperature=config.temperature)
            weights = None if scored.weights is None else scored.weights[part].to(real.device)
            policy = losses.policy_loss(
                align(logprobs, real), old, advantages, real, config.clip, tokens, weights
            )
            policy.loss.backward()  # type: ignore[no-untyped-call]
            sums["policy_loss"] += float(policy.loss.detach())
            sums["clip_fraction"] += float(policy.clip_fraction)
            sums["approx_kl"] += float(policy.approx_kl)
        for share in pretrain_losses(actors.policy, windows, pad_id, config.micro_tokens, check):
            (config.ptx_coef * share).backward()  # type: ignore[no-untyped-call]
            pretrain += float(share.detach())
    sums = distributed.summed(sums | ({"pretrain_loss": pretrain} if windows else {}))
    check_finite(sum(sums.values()), "loss")
    return {"pretrain_loss": math.nan} | sums


def _minibatches(config: PPOConfig, episodes: int, iteration: int) -> list[list[int]]:
    """Rows of each optimiser step of a rollout batch, shuffled anew in each epoch."""
    size, plan = config.minibatch, []
    for epoch in range(config.epochs):
        order = shuffled(episodes, config.seed, iteration, epoch)
        plan += [order[i : i + size] for i in range(0, episodes, size)]
    return plan


def _windows(work: Work, episodes: int) -> list[list[int]]:
    """The pretraining sequences of the next optimiser step."""
    config = work.config
    if work.text is None or not config.mixes or not learns(work):
        return []
    first = math.ceil(config.minibatch * config.ptx_per_episode) * work.progress.step
    return work.text.take(first, max(1, round(episodes * config.ptx_per_episode)))


# ---- 5. report -----------------------------------------------------------------------------------


def report(
    work: Work, rollout: Rollout, scored: Scored, shaped: Shaped, update: Update
) -> dict[str, float]:
    """Log the rollout batch, write a checkpoint when one is due; returns the figures."""
    config, progress, mask = work.config, work.progress, rollout.mask
    number, steps = progress.iteration + 1, progress.place
    last, seconds = number == config.iterations, progress.meter.seconds
    kl = float(losses.real(scored.logprobs - scored.reference, mask).sum(1).mean())
    figures = {
        "reward": float(scored.scores.mean()),
        "kl": kl,
        "kl_coef": progress.kl_coef,
        "entropy": float(losses.masked_mean(scored.entropy, mask)),
        **{name: value for name, value in update._asdict().items() if not math.isnan(value)},
        "explained_variance": float(losses.explained_variance(scored.values, shaped.returns, mask)),
        "end_rate": sum(rollout.finished) / len(rollout.finished),
        "response_length": float(mask.sum(1).float().mean()),
        **generator_figures(rollout, scored.logprobs, scored.weights),
        "learning_rate": config.learning_rate * rate_factor(work) if learns(work) else 0.0,
        "episodes_per_second": number * config.batch / seconds,
        "tokens_per_second": progress.meter.tokens / seconds,
    }
    if config.target_kl_stop is not None:
        figures["update_steps"] = steps
    if last or number % config.eval_every == 0:
        try:
            figures |= evaluate(work) | remembered_loss(work)
        except Interrupted:
            pause(work, rollout, scored)
    if config.kl_control == "adaptive":
        progress.kl_coef = losses.adapted_kl_coef(
            progress.kl_coef, kl, config.kl_target, len(mask), config.kl_horizon
        )
    progress.after_iteration()
    work.run.log(step=number, total=config.iterations, **figures)
    every = config.checkpoint_every
    due = progress.step // every > (progress.step - steps) // every
    stopping = work.run.stopping and not last
    if stopping or (due and not last):
        progress.save()
    if stopping:
        work.run.stop()
    return figures


def evaluate(work: Work) -> dict[str, float]:
    """Reward and KL of answers to held-out prompts, always the same prompts and noise; with
    ``keep_best`` the weights are kept if they do best.

    Nothing without such prompts; Interrupted when SIGTERM comes meanwhile.
    """
    config, actors, progress = work.config, work.actors, work.progress
    prompts = work.prompts.valid[: config.eval_prompts]
    if not prompts:
        return {}
    keys, how = [f"valid/{prompt.id}" for prompt in prompts], Sampling.of(config)
    with progress.looked_at():
        check = work.run.interrupt
        rollout = answer(actors.generator, prompts, keys, actors.codec, how, check)
        scored = score(work, prompts, rollout)
    kl = losses.real(scored.logprobs - scored.reference, rollout.mask).sum(1)
    figures = {"valid_reward": float(scored.scores.mean()), "valid_kl": float(kl.mean())}
    if config.keep_best:
        objective = figures["valid_reward"] - config.kl_coef * figures["valid_kl"]
        check_finite(objective, "held-out reward")
        progress.consider(objective)
        figures |= {"valid_objective": objective, "best_iteration": progress.best["iteration"]}
    return figures
