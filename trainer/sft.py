"""Supervised fine-tuning on demonstrations (InstructGPT section 3.5 and appendix C.1).

Cross-entropy on the completion alone, cosine decay to a tenth without warm-up, several epochs;
the weights kept are those of the epoch with the lowest validation loss.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from trainer import losses
from trainer.config import SFTConfig
from trainer.data import (
    Example,
    Splits,
    batch_examples,
    epoch_batches,
    load_demonstrations,
    micro_batches,
)
from trainer.models import LanguageModel, load_weights, save_language_model, trainable
from trainer.records import SCHEMA_VERSION, Manifest
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

_RESIDUAL_DROPOUTS = ("resid_pdrop", "residual_dropout", "hidden_dropout", "dropout")


class Trainee:
    """The model in training and everything a checkpoint must hold."""

    def __init__(self, config: SFTConfig, checkpoints: Checkpoints) -> None:
        self.config, self.checkpoints = config, checkpoints
        torch.manual_seed(config.seed)
        self.model = LanguageModel.load(
            config.model, config.freeze_layers, config.precision, pick_device()
        )
        self.weights = trainable(self.model.model)
        self.optimiser = Optimiser([(self.weights.values(), config.learning_rate)], config)
        self.meter = Meter()
        self.step = 0
        self.best_loss, self.best_epoch = math.inf, 0
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
                "optimiser": self.optimiser.adam.state_dict(),
                "best": self.best,
                "best_loss": self.best_loss,
                "best_epoch": self.best_epoch,
                "meter": self.meter.state(),
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.best = state["step"], state["best"]
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        load_weights(self.model.model, state["weights"])
        self.optimiser.adam.load_state_dict(state["optimiser"])
        self.meter.restore(state["meter"])


def run(config: SFTConfig, run: Run) -> None:
    """Train on the demonstrations; write model/ and the manifest."""
    set_threads(config.threads)
    parents = (
        parent_of("policy", config.model),
        parent_of("demonstrations", config.demonstrations),
    )
    codec = Codec.load(config.model)
    data = load_demonstrations(config.demonstrations, codec, config.max_tokens)
    trainee = Trainee(config, Checkpoints(run.out, config, parents))
    notes = (*data.notes, *_set_residual_dropout(trainee.model.model, config.residual_dropout))

    per_epoch = -(-len(data.train) // config.batch)
    total = config.epochs * per_epoch
    while trainee.step < total:
        epoch, place = divmod(trainee.step, per_epoch)
        rows = epoch_batches(len(data.train), config.batch, config.seed, epoch)[place]
        factor = cosine(trainee.step, total, config.final_lr_fraction)
        figures = train_step(trainee, [data.train[i] for i in rows], codec.pad_id, factor)
        if place == per_epoch - 1:
            figures |= end_epoch(trainee, data, codec.pad_id, epoch + 1)
        run.log(step=trainee.step, total=total, epoch=epoch + 1, **figures)
        if run.stop_requested or trainee.step % config.checkpoint_every == 0:
            trainee.save()
        if run.stop_requested:
            run.stop()

    kept = trainee.best or copied(trainee.weights)
    save_language_model(config.model, kept, run.out / MODEL)
    run.finish(_manifest(config, run, parents, trainee, data, notes, figures_of(trainee, data)))


def train_step(
    trainee: Trainee, examples: Sequence[Example], pad_id: int, factor: float
) -> dict[str, float]:
    """One optimiser step on a batch, cut into micro-batches; the loss is a mean over its tokens."""
    trainee.model.stack.train(True)
    targets = sum(len(example.completion) for example in examples)
    loss = backward_loss(trainee.model, examples, pad_id, trainee.config.micro_tokens, targets)
    check_finite(loss, "loss")
    (norm,) = trainee.optimiser.step(factor)
    trainee.step += 1
    trainee.meter.tokens += sum(len(example.ids) for example in examples)
    return {
        "loss": loss,
        "learning_rate": factor * trainee.config.learning_rate,
        "gradient_norm": norm,
        "tokens_per_second": trainee.meter.tokens / trainee.meter.seconds,
    }


def backward_loss(
    model: LanguageModel, examples: Sequence[Example], pad_id: int, micro_tokens: int, targets: int
) -> float:
    """Add the gradient of the batch's token mean, micro-batch by micro-batch; returns the loss."""
    loss = 0.0
    for group in micro_batches([len(example.ids) for example in examples], micro_tokens):
        part = token_mean(model, [examples[i] for i in group], pad_id, targets)
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def token_mean(
    model: LanguageModel, examples: Sequence[Example], pad_id: int, targets: int
) -> torch.Tensor:
    """This micro-batch's share of the cross-entropy, a scalar; ``targets`` is the whole count."""
    batch = batch_examples(examples, pad_id, model.stack.device)
    lower = model.stack.lower(batch.tokens)
    logprobs = model.logprobs(batch.tokens, batch.completion, lower=lower)
    return losses.token_loss(logprobs, torch.ones_like(logprobs, dtype=torch.bool), targets)


@torch.no_grad()
def validation_loss(
    model: LanguageModel, examples: Sequence[Example], pad_id: int, micro_tokens: int
) -> float:
    """Cross-entropy per completion token of held-out demonstrations; NaN where there are none."""
    if not examples:
        return math.nan
    model.stack.train(False)
    targets = sum(len(example.completion) for example in examples)
    groups = micro_batches([len(example.ids) for example in examples], micro_tokens)
    return sum(
        float(token_mean(model, [examples[i] for i in group], pad_id, targets)) for group in groups
    )


def end_epoch(trainee: Trainee, data: Splits[Example], pad_id: int, epoch: int) -> dict[str, float]:
    """Measure on the valid split; keep the weights if they are the best so far."""
    if not data.valid:
        return {}
    config = trainee.config
    loss = validation_loss(trainee.model, data.valid, pad_id, config.micro_tokens)
    if loss < trainee.best_loss:
        trainee.best_loss, trainee.best_epoch = loss, epoch
        trainee.best = copied(trainee.weights)
    return {"valid_loss": loss}


def _set_residual_dropout(model: Any, rate: float) -> tuple[str, ...]:
    """Set the dropout of residual branches where the architecture has one; else say so."""
    if rate == 0:
        return ()
    found = [name for name in _RESIDUAL_DROPOUTS if hasattr(model.config, name)]
    if not found:
        name = type(model).__name__
        return (f"residual_dropout was not applied: {name} has no dropout on residual branches.",)
    old = getattr(model.config, found[0])
    for name, module in model.named_modules():
        in_block = any(part.isdigit() for part in name.split("."))
        if isinstance(module, torch.nn.Dropout) and in_block and "attn_drop" not in name:
            module.p = rate if module.p == old else module.p
    return ()


def figures_of(trainee: Trainee, data: Splits[Example]) -> dict[str, Any]:
    """The last figures, for the manifest."""
    figures = trainee.meter.figures() | {"steps": trainee.step, "train_rows": len(data.train)}
    if data.valid:
        figures |= {"valid_loss": trainee.best_loss, "best_epoch": trainee.best_epoch}
    return figures


def _manifest(
    config: SFTConfig,
    run: Run,
    parents: tuple[Any, ...],
    trainee: Trainee,
    data: Splits[Example],
    notes: tuple[str, ...],
    metrics: dict[str, Any],
) -> Manifest:
    kept = (
        f"The weights are those of epoch {trainee.best_epoch} of {config.epochs}, which has the"
        " lowest validation loss."
        if trainee.best
        else "The weights are the last ones: there are no valid demonstrations to choose by."
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="sft",
        name=run.out.name,
        rows=len(data.train),
        files=folder_files(run.out),
        parents=parents,
        settings=settings_of(config),
        metrics=metrics,
        notes=(*notes, kept),
    )
