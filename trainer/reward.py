"""Reward model on whole rankings (InstructGPT section 3.5, equation 1, and appendix C.2).

All K answers of a ranking are one batch element with one forward pass each, behind their prompt,
which is computed once where the architecture allows it; every untied pair of them is in the loss.
After training a bias makes the demonstrations score 0 on average. Where the settings say so, a
model is also trained without each labeler group in turn, to see whether it predicts that group.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import distributed, losses
from trainer.config import RewardConfig
from trainer.data import (
    Check,
    Example,
    Ranking,
    RankingBatch,
    batch_examples,
    batch_rankings,
    batches_by_epoch,
    go_on,
    own_micro_batches,
)
from trainer.frozen import FrozenStates
from trainer.idle import idle_pass
from trainer.models import ScalarModel, equip, load_weights, save_reward_model, trainable
from trainer.records import SCHEMA_VERSION, Manifest, Parent, write_atomic
from trainer.reward_data import Data, load
from trainer.reward_report import (
    GAPS,
    Fold,
    Pairs,
    fold_figures,
    folds_report,
    joined_pairs,
    pair_figures,
    report,
    write_report,
)
from trainer.runtime import (
    Checkpoints,
    Meter,
    Optimiser,
    check_finite,
    cosine,
    settings_of,
)
from trainer.sharding import copied, load_device
from trainer.stack import pick_device
from trainer.stage_io import MODEL, Run, folder_files, parent_of, set_threads
from trainer.text import Codec

HEADLINES = ("accuracy", "log_loss", "calibration_error", "pairs")
"""What is logged of the held-out pairs."""


class Trainee:
    """The model in training and everything a checkpoint must hold."""

    def __init__(self, config: RewardConfig, checkpoints: Checkpoints, pad_id: int) -> None:
        self.config, self.checkpoints, self.pad_id = config, checkpoints, pad_id
        self.model = ScalarModel.fresh(
            config.model,
            config.freeze_layers,
            config.precision,
            load_device(config, pick_device()),
            pad_id=pad_id,
            seed=config.seed,
            scale=config.head_scale,
        )
        self.model.head.bias.requires_grad_(False)  # no pair of scores depends on it
        equip(self.model, config)
        self.model.frozen = FrozenStates.of(self.model.stack, config)
        self.weights = trainable(self.model.model)
        self.optimiser = Optimiser([(self.weights.values(), config.learning_rate)], config)
        self.meter = Meter()
        self.step = 0
        self.figures: dict[str, float] = {}  # of the step before, while what follows is not done
        state = checkpoints.load()
        if state is not None:
            self.step, self.figures = state["step"], state["figures"]
            load_weights(self.model.model, state["weights"])
            self.optimiser.restore(state["optimiser"])
            self.meter.restore(state["meter"])

    def save(self) -> None:
        self.checkpoints.save(
            self.step,
            {
                "step": self.step,
                "weights": copied(self.weights),
                "optimiser": self.optimiser.state(),
                "figures": self.figures,
                "meter": self.meter.state(),
            },
        )


class Log(NamedTuple):
    """Where the steps of one training stand in those of the whole run."""

    run: Run
    total: int  # steps of the run
    before: int = 0  # steps of it before this training
    fold: int | None = None

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        if self.fold is not None:
            shown = {f"fold_{name}": figures[name] for name in ("epoch", "loss", "train_accuracy")}
            figures = {"fold": self.fold} | shown
        self.run.log(step=self.before + step, total=self.total, **figures)


class Final(NamedTuple):
    """The model that is kept, saved."""

    data: Data
    metrics: dict[str, Any]
    report: dict[str, Any]


def run(config: RewardConfig, run: Run) -> None:
    """Train on the rankings; write model/, report.json and the manifest."""
    set_threads(config.threads)
    parents = [parent_of("policy", config.model), parent_of("comparisons", config.comparisons)]
    if config.demonstrations is not None:
        parents.append(parent_of("demonstrations", config.demonstrations))
    codec = Codec.load(config.model)
    data, metrics, found = train_final(config, run, parents, codec)
    steps, results = data.steps(config), []
    for i, fold in enumerate(data.folds):
        checkpoints = Checkpoints(run.out / "checkpoints" / f"fold-{i}", config, parents)
        log = Log(run, sum(steps), sum(steps[: i + 1]), i)
        valid = data.rankings.valid
        results.append(train_fold(config, checkpoints, codec.pad_id, fold, valid, log))
    if results:
        found["folds"] = folds_report(results)
    if not distributed.is_main():
        return
    write_report(run.out, found)
    headlines = {k: v for k, v in found["overall"].items() if k != "rankings"}
    metrics |= headlines | {name: part for name, part in found.items() if name != "overall"}
    run.finish(_manifest(config, run, parents, len(data.rankings.train), data.notes, metrics))


def train_final(config: RewardConfig, run: Run, parents: Sequence[Parent], codec: Codec) -> Final:
    """Train on everything, and save the model."""
    trainee = Trainee(config, Checkpoints(run.out, config, parents), codec.pad_id)
    data = load(config, codec, trainee.model.stack.positions)
    train, valid = data.rankings.train, data.rankings.valid
    bias = 0.0
    with run.saved(trainee.save):
        pairs = fit(trainee, train, valid, Log(run, sum(data.steps(config))))
        if data.folds and trainee.step % config.checkpoint_every != 0:
            trainee.save()  # a run killed in a fold goes on from here
        if data.demonstrations is not None:
            bias = -mean_score(trainee, data.demonstrations, run.interrupt)
    weights = copied(trainee.weights)
    if distributed.is_main():
        save_reward_model(
            config.model, weights, run.out / MODEL, bias=bias, pad_id=codec.pad_id, config=config
        )
    metrics = trainee.meter.figures() | {"steps": trainee.step, "bias": bias}
    return Final(data, metrics, report(pairs, valid, config.modelled_tie))


def train_fold(
    config: RewardConfig,
    checkpoints: Checkpoints,
    pad_id: int,
    fold: Fold,
    valid: Sequence[Ranking],
    log: Log,
) -> dict[str, Any]:
    """Train a model without one labeler group and measure it; nothing of it stays but figures."""
    done = checkpoints.folder.with_name("result.json")
    known: dict[str, Any] | None = distributed.from_main(
        json.loads(done.read_text(encoding="utf-8")) if done.is_file() else None
    )
    if known is not None and GAPS in known:  # earlier versions left them out
        return known
    trainee = Trainee(config, checkpoints, pad_id)
    with log.run.saved(trainee.save):
        fit(trainee, fold.train, (), log)
        check = log.run.interrupt
        pairs = score_pairs(trainee.model, valid, pad_id, config.micro_tokens, check)
    result = fold_figures(fold, pairs, valid, trainee.config.modelled_tie)
    if distributed.is_main():
        write_atomic(done, [json.dumps(result, ensure_ascii=False), "\n"])
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return result


def fit(trainee: Trainee, train: Sequence[Ranking], valid: Sequence[Ranking], log: Log) -> Pairs:
    """All steps from where the trainee stands; the pairs of ``valid`` as it then scores them.

    Interrupted after SIGTERM.
    """
    config, run = trainee.config, log.run
    per_epoch = -(-len(train) // config.batch)
    total = config.epochs * per_epoch
    batches = batches_by_epoch(len(train), config.batch, config.seed)
    pairs = None
    while trainee.step < total or trainee.figures:
        if not trainee.figures:
            epoch, place = divmod(trainee.step, per_epoch)
            factor = cosine(trainee.step, total, config.final_lr_fraction)
            some = [train[i] for i in batches(epoch)[place]]
            trainee.figures = {"epoch": epoch + 1} | train_step(
                trainee, some, factor, run.interrupt
            )
        measured = {}
        if trainee.step % per_epoch == 0:
            pairs = _measured(trainee, valid, run.interrupt)
            odds = losses.pair_log_odds(pairs.differences, trainee.config.modelled_tie)
            measured = {k: v for k, v in pair_figures(odds).items() if k in HEADLINES}
        log(trainee.step, trainee.figures | measured)
        trainee.figures = {}
        stopping = run.stopping
        if stopping or trainee.step % config.checkpoint_every == 0:
            trainee.save()
        if stopping:
            run.stop()
    if pairs is None:  # a run resumed after its last step
        pairs = _measured(trainee, valid, run.interrupt)
    return pairs


def _measured(trainee: Trainee, valid: Sequence[Ranking], check: Check) -> Pairs:
    return score_pairs(trainee.model, valid, trainee.pad_id, trainee.config.micro_tokens, check)


def train_step(
    trainee: Trainee, rankings: Sequence[Ranking], factor: float, check: Check
) -> dict[str, float]:
    """One optimiser step on a batch of rankings, cut into micro-batches of whole rankings."""
    with trainee.optimiser.all_or_nothing():
        batch = backward_loss(trainee.model, rankings, trainee.pad_id, trainee.config, check)
    check_finite(batch.loss, "loss")
    (norm,) = trainee.optimiser.step(factor)
    trainee.step += 1
    trainee.meter.tokens += sum(ranking.tokens for ranking in rankings)
    return {
        "loss": batch.loss,
        "train_accuracy": batch.right / batch.pairs if batch.pairs else math.nan,
        "learning_rate": factor * trainee.config.learning_rate,
        "gradient_norm": norm,
        "tokens_per_second": trainee.meter.tokens / trainee.meter.seconds,
    }


class Trained(NamedTuple):
    """What a batch said before its optimiser step."""

    loss: float
    right: float  # untied pairs whose better answer scored higher; equal scores are half right
    pairs: int


def backward_loss(
    model: ScalarModel,
    rankings: Sequence[Ranking],
    pad_id: int,
    config: RewardConfig,
    check: Check = go_on,
) -> Trained:
    """Add the gradient of the batch's loss, micro-batch by micro-batch."""
    loss, right, count = 0.0, 0.0, 0
    with distributed.together(in_step=model.stack.in_step):
        for group in _micro(model, rankings, config.micro_tokens, check):
            some = [rankings[i] for i in group]
            batch, scores = _scores(model, some, pad_id)
            part = objective(config, some, batch, scores, len(rankings))
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
            pairs = losses.untied_pairs(batch.ranks, batch.mask)
            ahead = (scores[:, :, None] - scores[:, None, :]).detach()[pairs]
            right += float((ahead > 0).sum()) + 0.5 * float((ahead == 0).sum())
            count += len(ahead)
    return Trained(*map(sum, zip(*distributed.gathered((loss, right, count)), strict=True)))


def objective(
    config: RewardConfig,
    rankings: Sequence[Ranking],
    batch: RankingBatch,
    scores: Tensor,
    count: int,
) -> Tensor:
    """The loss of some of a step's ``count`` rankings, a scalar, from their scores [B, K]."""
    strengths = [1.0 if r.strength is None else r.strength for r in rankings]
    margin = config.margin * torch.tensor(strengths) if config.margin_by_strength else config.margin
    extra: dict[str, Any] = {"margin": margin, "smoothing": config.label_smoothing}
    if config.loss == "best_of_k":
        loss = losses.best_of_k_loss(scores, batch.ranks, batch.mask, count, **extra)
    else:
        extra["tie_threshold"] = config.modelled_tie
        loss = losses.ranking_loss(scores, batch.ranks, batch.mask, count, **extra)
    if config.l2 > 0:
        loss = loss + config.l2 * losses.score_penalty(scores, batch.mask, count)
    return loss


def _scores(
    model: ScalarModel, rankings: Sequence[Ranking], pad_id: int
) -> tuple[RankingBatch, Tensor]:
    """A batch of rankings and the scores [B, K] of their answers."""
    batch = batch_rankings(rankings, pad_id, model.stack.device, shared=model.stack.segments)
    values = model.values(batch.tokens, lower=model.frozen.lower(batch.tokens))
    return batch, batch.scores(values)


def _micro(
    model: ScalarModel, rankings: Sequence[Ranking], limit: int, check: Check
) -> Iterator[list[int]]:
    """Groups of this process's whole rankings of at most ``limit`` padded tokens.

    ``check`` as in ``own_micro_batches``.
    """
    sizes = None
    widths = [ranking.tokens for ranking in rankings]
    if not model.stack.segments:
        widths = [max(len(answer.ids) for answer in ranking.answers) for ranking in rankings]
        sizes = [len(ranking.ranks) for ranking in rankings]
    idle = idle_pass(model)
    return own_micro_batches(widths, limit, sequences=sizes, idle=idle, check=check)


# ---- what is measured on held-out rankings -------------------------------------------------------


@torch.no_grad()
def score_pairs(
    model: ScalarModel,
    rankings: Sequence[Ranking],
    pad_id: int,
    micro: int,
    check: Check = go_on,
) -> Pairs:
    """Score differences of all untied pairs."""
    differences, places = [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)]
    with distributed.together(in_step=model.stack.in_step):
        for group in _micro(model, rankings, micro, check):
            batch, scores = _scores(model, [rankings[i] for i in group], pad_id)
            pairs = losses.untied_pairs(batch.ranks, batch.mask)
            differences.append((scores[:, :, None] - scores[:, None, :])[pairs].cpu())
            places.append(torch.tensor(group)[pairs.nonzero()[:, 0].cpu()])
    return joined_pairs(distributed.gathered(Pairs(torch.cat(differences), torch.cat(places))))


@torch.no_grad()
def mean_score(trainee: Trainee, examples: Sequence[Example], check: Check) -> float:
    """Mean raw score of demonstrations."""
    total, model = 0.0, trainee.model
    widths, limit = [len(e.ids) for e in examples], trainee.config.micro_tokens
    with distributed.together(in_step=model.stack.in_step):
        for group in own_micro_batches(widths, limit, idle=idle_pass(model), check=check):
            batch = batch_examples([examples[i] for i in group], trainee.pad_id, model.stack.device)
            lower = model.stack.lower(batch.tokens)
            total += float(model.scores(batch.tokens, lower=lower).sum())
    mean = distributed.total(total) / len(examples) if examples else math.nan
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
