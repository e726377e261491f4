"""Reward model on whole rankings (InstructGPT section 3.5, equation 1, and appendix C.2).

All K answers of a ranking are one batch element with one forward pass each, behind their prompt,
which is computed once where the architecture allows it; every untied pair of them is in the loss.
After training a bias makes the demonstrations score 0 on average.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import losses
from trainer.config import RewardConfig
from trainer.data import (
    Example,
    Ranking,
    RankingBatch,
    batch_examples,
    batch_rankings,
    epoch_batches,
    load_demonstrations,
    load_rankings,
    micro_batches,
)
from trainer.models import ScalarModel, load_weights, save_reward_model, trainable
from trainer.records import SCHEMA_VERSION, Manifest, Parent
from trainer.runtime import (
    Checkpoints,
    Meter,
    Optimiser,
    check_finite,
    copied,
    cosine,
    settings_of,
)
from trainer.stack import pick_device
from trainer.stage_io import MODEL, Run, folder_files, parent_of, set_threads
from trainer.text import Codec


class Trainee:
    """The model in training and everything a checkpoint must hold."""

    def __init__(self, config: RewardConfig, checkpoints: Checkpoints, pad_id: int) -> None:
        self.config, self.checkpoints, self.pad_id = config, checkpoints, pad_id
        self.model = ScalarModel.fresh(
            config.model,
            config.freeze_layers,
            config.precision,
            pick_device(),
            pad_id=pad_id,
            seed=config.seed,
            scale=config.head_scale,
        )
        self.model.model.score.bias.requires_grad_(False)  # no pair of scores depends on it
        self.weights = trainable(self.model.model)
        self.optimiser = Optimiser([(self.weights.values(), config.learning_rate)], config)
        self.meter = Meter()
        self.step = 0
        state = checkpoints.load()
        if state is not None:
            self.step = state["step"]
            load_weights(self.model.model, state["weights"])
            self.optimiser.adam.load_state_dict(state["optimiser"])
            self.meter.restore(state["meter"])

    def save(self) -> None:
        self.checkpoints.save(
            self.step,
            {
                "step": self.step,
                "weights": copied(self.weights),
                "optimiser": self.optimiser.adam.state_dict(),
                "meter": self.meter.state(),
            },
        )


def run(config: RewardConfig, run: Run) -> None:
    """Train on the rankings; write model/ and the manifest."""
    set_threads(config.threads)
    parents = [parent_of("policy", config.model), parent_of("comparisons", config.comparisons)]
    codec = Codec.load(config.model)
    data = load_rankings(config.comparisons, codec, config.max_tokens)
    demonstrations, notes = None, data.notes
    if config.demonstrations is not None:
        parents.append(parent_of("demonstrations", config.demonstrations))
        demonstrations = load_demonstrations(config.demonstrations, codec, config.max_tokens)
        notes = (*notes, *demonstrations.notes)
    trainee = Trainee(config, Checkpoints(run.out, config, parents), codec.pad_id)

    per_epoch = -(-len(data.train) // config.batch)
    total = config.epochs * per_epoch
    last: dict[str, float] = {}
    while trainee.step < total:
        epoch, place = divmod(trainee.step, per_epoch)
        rows = epoch_batches(len(data.train), config.batch, config.seed, epoch)[place]
        factor = cosine(trainee.step, total, config.final_lr_fraction)
        figures = train_step(trainee, [data.train[i] for i in rows], factor)
        if place == per_epoch - 1:
            last = measured(trainee, data.valid)
            figures |= last
        run.log(step=trainee.step, total=total, epoch=epoch + 1, **figures)
        if run.stop_requested or trainee.step % config.checkpoint_every == 0:
            trainee.save()
        if run.stop_requested:
            run.stop()

    last = last or measured(trainee, data.valid)  # a run resumed after its last step has none
    bias = 0.0
    if demonstrations is None:
        notes = (*notes, "There were no demonstrations: the scores have no bias.")
    else:
        bias = -mean_score(trainee, [*demonstrations.train, *demonstrations.valid])
    weights = copied(trainee.weights)
    save_reward_model(config.model, weights, run.out / MODEL, bias=bias, pad_id=codec.pad_id)
    metrics = trainee.meter.figures() | {"steps": trainee.step, "bias": bias} | last
    run.finish(_manifest(config, run, parents, len(data.train), notes, metrics))


def train_step(trainee: Trainee, rankings: Sequence[Ranking], factor: float) -> dict[str, float]:
    """One optimiser step on a batch of rankings, cut into micro-batches of whole rankings."""
    loss = backward_loss(trainee.model, rankings, trainee.pad_id, trainee.config.micro_tokens)
    check_finite(loss, "loss")
    (norm,) = trainee.optimiser.step(factor)
    trainee.step += 1
    trainee.meter.tokens += sum(ranking.tokens for ranking in rankings)
    return {
        "loss": loss,
        "learning_rate": factor * trainee.config.learning_rate,
        "gradient_norm": norm,
        "tokens_per_second": trainee.meter.tokens / trainee.meter.seconds,
    }


def backward_loss(
    model: ScalarModel, rankings: Sequence[Ranking], pad_id: int, micro_tokens: int
) -> float:
    """Add the gradient of the batch's ranking loss, micro-batch by micro-batch; returns the loss."""
    loss = 0.0
    for group in _micro(model, rankings, micro_tokens):
        batch, scores = _scores(model, [rankings[i] for i in group], pad_id)
        part = losses.ranking_loss(scores, batch.ranks, batch.mask, len(rankings))
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def _scores(
    model: ScalarModel, rankings: Sequence[Ranking], pad_id: int
) -> tuple[RankingBatch, Tensor]:
    """A batch of rankings and the scores [B, K] of their answers."""
    batch = batch_rankings(rankings, pad_id, model.stack.device, shared=model.stack.segments)
    values = model.values(batch.tokens, lower=model.stack.lower(batch.tokens))
    return batch, batch.scores(values)


def _micro(model: ScalarModel, rankings: Sequence[Ranking], limit: int) -> Iterator[list[int]]:
    """Groups of whole rankings of at most ``limit`` padded tokens."""
    if model.stack.segments:
        return micro_batches([ranking.tokens for ranking in rankings], limit)
    widths = [max(len(answer.ids) for answer in ranking.answers) for ranking in rankings]
    return micro_batches(widths, limit, sequences=[len(r.ranks) for r in rankings])


# ---- what is measured on held-out rankings -------------------------------------------------------


class Pairs(NamedTuple):
    """Every untied pair of a set of rankings."""

    differences: Tensor  # [N] score of the better answer minus score of the worse


@torch.no_grad()
def score_pairs(model: ScalarModel, rankings: Sequence[Ranking], pad_id: int, micro: int) -> Pairs:
    """Score differences of all untied pairs."""
    found = []
    for group in _micro(model, rankings, micro):
        batch, scores = _scores(model, [rankings[i] for i in group], pad_id)
        pairs = losses.untied_pairs(batch.ranks, batch.mask)
        found.append((scores[:, :, None] - scores[:, None, :])[pairs])
    return Pairs(torch.cat(found).cpu())


def measured(trainee: Trainee, valid: Sequence[Ranking]) -> dict[str, float]:
    """Accuracy, log loss and calibration over the pairs of the valid split; empty without one."""
    if not valid:
        return {}
    pairs = score_pairs(trainee.model, valid, trainee.pad_id, trainee.config.micro_tokens)
    return pair_figures(pairs.differences)


def pair_figures(differences: Tensor) -> dict[str, float]:
    """Figures from score differences [N], better minus worse; equal scores are half right.

    The calibration error compares the belief in the answer that scores higher with how often it
    is the better one.
    """
    if len(differences) == 0:
        return {}
    right = (differences > 0).float() + 0.5 * (differences == 0).float()
    belief = torch.sigmoid(differences.abs())
    return {
        "accuracy": float(right.mean()),
        "log_loss": float(torch.nn.functional.softplus(-differences).mean()),
        "calibration_error": float(losses.calibration_error(belief, right)),
        "pairs": len(differences),
    }


@torch.no_grad()
def mean_score(trainee: Trainee, examples: Sequence[Example]) -> float:
    """Mean raw score of demonstrations."""
    total, model = 0.0, trainee.model
    for group in micro_batches([len(e.ids) for e in examples], trainee.config.micro_tokens):
        batch = batch_examples([examples[i] for i in group], trainee.pad_id, model.stack.device)
        lower = model.stack.lower(batch.tokens)
        total += float(model.scores(batch.tokens, lower=lower).sum())
    mean = total / len(examples) if examples else math.nan
    check_finite(mean, "mean score of the demonstrations")
    return mean


def _manifest(
    config: RewardConfig,
    run: Run,
    parents: Sequence[Parent],
    rows: int,
    notes: tuple[str, ...],
    metrics: dict[str, Any],
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="reward",
        name=run.out.name,
        rows=rows,
        files=folder_files(run.out),
        parents=tuple(parents),
        settings=settings_of(config),
        metrics=metrics,
        notes=notes,
    )
