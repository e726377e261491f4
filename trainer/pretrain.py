"""Pretraining on running text: next tokens (GPT-3, arXiv 2005.14165) or masked ones (BERT).

Text is cut into windows of one length; some are held out and measured. The rate rises over the
first steps and falls along a cosine; the weights kept are those with the lowest held-out loss.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import distributed, losses
from trainer.config import PretrainConfig
from trainer.data import Check, batches_by_epoch, go_on, own_micro_batches, shuffled
from trainer.errors import ConfigError, DataError
from trainer.model_folder import save_model_folder
from trainer.models import load_weights, trainable
from trainer.objectives import Guess, Objective, batch_guesses, new_model, objective_of
from trainer.pretrain_text import TokenStream, Windows, text_parent
from trainer.records import SCHEMA_VERSION, Manifest, Parent
from trainer.runtime import (
    Checkpoints,
    Meter,
    Optimiser,
    check_finite,
    cosine,
    settings_of,
    warm_up,
)
from trainer.sharding import copied
from trainer.stack import pick_device
from trainer.stage_io import MODEL, Run, folder_files, parent_of, set_threads
from trainer.text import Codec

_VALID = "valid"  # in the key of the held-out windows' noise, where an epoch stands for the others


class Text(NamedTuple):
    """What is learned from and what is measured on."""

    windows: Windows
    train: list[int]  # numbers of windows
    valid: list[list[int]]
    notes: tuple[str, ...]


class Trainee:
    """The model in training and everything a checkpoint must hold."""

    def __init__(self, config: PretrainConfig, codec: Codec, checkpoints: Checkpoints) -> None:
        self.config, self.checkpoints, self.pad_id = config, checkpoints, codec.pad_id
        torch.manual_seed(config.seed)
        self.objective = objective_of(config, codec)
        self.weights = trainable(self.objective.model)
        self.optimiser = Optimiser([(self.weights.values(), config.learning_rate)], config)
        self.meter = Meter()
        self.step = 0
        self.figures: dict[str, float] = {}  # of the step before, while its look is not done
        self.best_loss, self.best_step = math.inf, 0
        self.best: dict[str, Any] = {}
        state = checkpoints.load()
        if state is not None:
            self._restore(state)

    def save(self) -> None:
        self.checkpoints.save(
            self.step,
            {
                "step": self.step,
                "weights": copied(self.weights),
                "optimiser": self.optimiser.state(),
                "figures": self.figures,
                "best": self.best,
                "best_loss": self.best_loss,
                "best_step": self.best_step,
                "meter": self.meter.state(),
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.figures, self.best = state["step"], state["figures"], state["best"]
        self.best_loss, self.best_step = state["best_loss"], state["best_step"]
        load_weights(self.objective.model, state["weights"])
        self.optimiser.restore(state["optimiser"])
        self.meter.restore(state["meter"])


def run(config: PretrainConfig, run: Run) -> None:
    """Train on the text; write model/ and the manifest."""
    for name in ("model", "text"):
        if not getattr(config, name):
            raise ConfigError(f"pretrain settings lack {name!r}: name a folder.")
    set_threads(config.threads)
    parents = _parents(config)
    codec = Codec.load(config.model)
    trainee = Trainee(config, codec, Checkpoints(run.out, config, parents))
    with distributed.together():
        text = load_text(config, codec, trainee.objective, run.check)

    with run.saved(trainee.save):
        fit(trainee, text, run)
    kept = trainee.best or copied(trainee.weights)
    if distributed.is_main():
        model = new_model(config)
        load_weights(model, kept)
        save_model_folder(model, config.model, run.out / MODEL)
        run.finish(_manifest(config, run, parents, trainee, text))


def fit(trainee: Trainee, text: Text, run: Run) -> None:
    """All steps and looks from where the trainee stands; Interrupted after SIGTERM."""
    config = trainee.config
    per_epoch = -(-len(text.train) // config.batch)
    total = min(config.epochs * per_epoch, config.max_steps or sys.maxsize)
    batches = batches_by_epoch(len(text.train), config.batch, config.seed)
    while trainee.step < total or trainee.figures:
        if not trainee.figures:
            epoch, place = divmod(trainee.step, per_epoch)
            guesses = _guesses(trainee, text, batches(epoch)[place], epoch)
            factor = learning_factor(config, trainee.step, total)
            trainee.figures = train_step(trainee, guesses, factor, run.interrupt)
        looked = {}
        if trainee.step % config.valid_every == 0 or trainee.step == total:
            looked = look(trainee, text.valid, run.interrupt)
        epoch = -(-trainee.step // per_epoch)
        run.log(step=trainee.step, total=total, epoch=epoch, **trainee.figures, **looked)
        trainee.figures = {}
        stopping = run.stopping
        if stopping or trainee.step % config.checkpoint_every == 0:
            trainee.save()
        if stopping:
            run.stop()


def load_text(config: PretrainConfig, codec: Codec, objective: Objective, check: Check) -> Text:
    """The windows of the text; which of them are held out is a function of the seed."""
    length, start = objective.length, objective.start_ids
    source = TokenStream(config.text, codec, start)
    windows = Windows.of_text(source, length, check)
    order = shuffled(len(windows), config.seed)
    notes = source.notes
    if config.valid_text is not None:
        beside = TokenStream(config.valid_text, codec, start)
        others = Windows.of_text(beside, length, check)
        notes = (*notes, *(note for note in beside.notes if note not in notes))
        valid = [others[i] for i in range(min(config.valid_windows, len(others)))]
        return Text(windows, sorted(order), valid, notes)
    tenth = max(1, len(windows) // 10) if len(windows) > 1 else 0
    held = min(config.valid_windows, tenth)
    if config.valid_windows and not held:
        notes = (*notes, "The text fills one window: none is held out.")
    return Text(windows, sorted(order[held:]), [windows[i] for i in sorted(order[:held])], notes)


def learning_factor(config: PretrainConfig, step: int, total: int) -> float:
    """Factor of the learning rate at step 0, 1, ... total - 1: up from a tenth, then a cosine."""
    rising = int(config.warmup_fraction * total)
    if step < rising:
        return warm_up(step, rising)
    return cosine(step - rising, total - rising, config.final_lr_fraction)


def train_step(
    trainee: Trainee, guesses: Sequence[Guess], factor: float, check: Check
) -> dict[str, float]:
    """One optimiser step on a batch, cut into micro-batches; the loss is a mean over its targets."""
    trainee.objective.train(True, trainee.step)
    with trainee.optimiser.all_or_nothing():
        loss = backward_loss(trainee, guesses, check)
    check_finite(loss, "loss")
    (norm,) = trainee.optimiser.step(factor)
    trainee.step += 1
    trainee.meter.tokens += sum(len(guess.ids) for guess in guesses)
    return {
        "loss": loss,
        trainee.objective.perplexity_name: losses.perplexity(loss),
        "learning_rate": factor * trainee.config.learning_rate,
        "gradient_norm": norm,
        "tokens_per_second": trainee.meter.tokens / trainee.meter.seconds,
    }


def backward_loss(trainee: Trainee, guesses: Sequence[Guess], check: Check = go_on) -> float:
    """Add the gradient of the batch's mean over targets, micro-batch by micro-batch; the loss."""
    loss = 0.0
    with distributed.together(in_step=trainee.objective.in_step):
        for part in _shares(trainee, guesses, check):
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
    return distributed.total(loss)


@torch.no_grad()
def held_out_loss(
    trainee: Trainee, windows: Sequence[Sequence[int]], check: Check = go_on
) -> float:
    """Cross-entropy per target of held-out windows, their masks always the same; NaN for none."""
    if not windows:
        return math.nan
    trainee.objective.train(False)
    seed = trainee.config.seed
    guesses = [trainee.objective.guess(w, (seed, _VALID, i)) for i, w in enumerate(windows)]
    with distributed.together(in_step=trainee.objective.in_step):
        loss = sum(float(part) for part in _shares(trainee, guesses, check))
    return distributed.total(loss)


def _shares(trainee: Trainee, guesses: Sequence[Guess], check: Check) -> Iterator[Tensor]:
    """The share of each of this process's micro-batches in the mean over all targets, a scalar.

    ``check`` as in ``own_micro_batches``.
    """
    targets = sum(len(guess.targets) for guess in guesses)
    if targets == 0:
        raise DataError("The tokenizer knows none of this text: there is nothing to predict.")
    widths, limit = [len(guess.ids) for guess in guesses], trainee.config.micro_tokens
    for group in own_micro_batches(widths, limit, idle=trainee.objective.idle, check=check):
        yield target_mean(trainee, [guesses[i] for i in group], targets)


def target_mean(trainee: Trainee, guesses: Sequence[Guess], targets: int) -> Tensor:
    """This micro-batch's share of the cross-entropy, a scalar; ``targets`` is the whole count."""
    batch, asked, wanted = batch_guesses(guesses, trainee.pad_id, pick_device())
    logprobs = trainee.objective.logprobs(batch, asked, wanted)
    return losses.token_loss(logprobs, torch.ones_like(logprobs, dtype=torch.bool), targets)


def look(trainee: Trainee, windows: Sequence[Sequence[int]], check: Check) -> dict[str, float]:
    """Measure on the held-out windows; keep the weights if they are the best so far."""
    if not windows:
        return {}
    loss = held_out_loss(trainee, windows, check)
    if loss < trainee.best_loss:
        trainee.best_loss, trainee.best_step = loss, trainee.step
        trainee.best = copied(trainee.weights)
    return {"valid_loss": loss, _valid_perplexity(trainee): losses.perplexity(loss)}


def _guesses(trainee: Trainee, text: Text, rows: Sequence[int], epoch: int) -> list[Guess]:
    """The tasks of one batch; in every epoch a window is masked anew."""
    numbers = [text.train[i] for i in rows]
    seed = trainee.config.seed
    return [trainee.objective.guess(text.windows[n], (seed, epoch, n)) for n in numbers]


def _valid_perplexity(trainee: Trainee) -> str:
    return f"valid_{trainee.objective.perplexity_name}"


def _parents(config: PretrainConfig) -> tuple[Parent, ...]:
    found = (parent_of("base", config.model), text_parent(config.text))
    if config.valid_text is None:
        return found
    return (*found, text_parent(config.valid_text, "valid_text"))


def _manifest(
    config: PretrainConfig, run: Run, parents: tuple[Parent, ...], trainee: Trainee, text: Text
) -> Manifest:
    metrics = trainee.meter.figures() | {
        "steps": trainee.step,
        "train_windows": len(text.train),
        "valid_windows": len(text.valid),
        "parameters": sum(p.numel() for p in trainee.objective.model.parameters()),
    }
    if trainee.best:
        metrics |= {
            "valid_loss": trainee.best_loss,
            _valid_perplexity(trainee): losses.perplexity(trainee.best_loss),
            "best_step": trainee.best_step,
        }
        kept = f"those of step {trainee.best_step}, which has the lowest held-out loss."
    else:
        kept = "the last ones: no held-out text was there to choose by."
    notes = [*text.notes, f"The weights are {kept}"]
    if config.objective == "masked":
        notes.append(
            "The pseudo-perplexity is over the masked tokens alone, seen from both sides, and is"
            " not comparable with the perplexity of a causal model."
        )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="pretrain",
        name=run.out.name,
        rows=len(text.train),
        files=folder_files(run.out),
        parents=parents,
        settings=settings_of(config),
        metrics=metrics,
        notes=tuple(notes),
    )
