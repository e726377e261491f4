"""Supervised fine-tuning on demonstrations (InstructGPT section 3.5 and appendix C.1).

Cross-entropy on the completion alone, cosine decay to a tenth without warm-up, several epochs.
The weights kept are those that score highest with a reward model of an earlier round, or, where
none is given, those with the lowest validation loss.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from trainer import distributed
from trainer.config import SFTConfig
from trainer.data import Check, Example, ExampleBatch, go_on
from trainer.idle import idle_pass
from trainer.judge import Judge
from trainer.mixture import Mixture, load_mixture, source_parents
from trainer.models import LanguageModel, equip, load_weights, save_language_model, trainable
from trainer.packing import example_batches
from trainer.pretrain_text import text_parent
from trainer.records import SCHEMA_VERSION, Manifest, Parent
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

Figures = dict[str, float]

UNPACKABLE = "Examples were not packed: this architecture cannot keep several in one row apart."


class Trainee:
    """The model in training and everything a checkpoint must hold."""

    def __init__(self, config: SFTConfig, checkpoints: Checkpoints) -> None:
        self.config, self.checkpoints = config, checkpoints
        torch.manual_seed(config.seed)
        self.model = LanguageModel.load(
            config.model,
            config.freeze_layers,
            config.precision,
            load_device(config, pick_device()),
        )
        equip(self.model, config)
        self.weights = trainable(self.model.model)
        self.optimiser = Optimiser([(self.weights.values(), config.learning_rate)], config)
        self.pack_tokens = config.pack_tokens if config.pack and self.model.stack.segments else None
        self.meter = Meter()
        self.step = 0
        self.figures: Figures = {}  # of the step before, while what comes after it is not done
        self.best: dict[str, Any] = {}  # weights
        self.chosen: Figures = {}  # what was measured of them, their step and epoch
        self.lowest: Figures = {}  # the same of those with the lowest validation loss
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
                "chosen": self.chosen,
                "lowest": self.lowest,
                "meter": self.meter.state(),
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.figures, self.best = state["step"], state["figures"], state["best"]
        self.chosen, self.lowest = state["chosen"], state["lowest"]
        load_weights(self.model.model, state["weights"])
        self.optimiser.restore(state["optimiser"])
        self.meter.restore(state["meter"])


def run(config: SFTConfig, run: Run) -> None:
    """Train on the demonstrations; write model/ and the manifest."""
    set_threads(config.threads)
    sources = source_parents(config)
    parents = (parent_of("policy", config.model), *sources)
    if config.pretrain_text is not None:
        parents = (*parents, text_parent(config.pretrain_text))
    if config.reward is not None:
        parents = (*parents, parent_of("reward", config.reward))
    codec = Codec.load(config.model)
    data = load_mixture(config, codec, sources)
    trainee = Trainee(config, Checkpoints(run.out, config, parents))
    judge = _judge(config, codec, trainee.model)
    notes = (
        *data.notes,
        *trainee.model.stack.set_dropout(config.residual_dropout, config.seed),
        *((UNPACKABLE,) if config.pack and trainee.pack_tokens is None else ()),
        *(judge.notes if judge else ()),
    )

    with run.saved(trainee.save):
        fit(trainee, data, judge, codec.pad_id, run)
    kept = trainee.best or copied(trainee.weights)
    if distributed.is_main():
        save_language_model(config.model, kept, run.out / MODEL, config)
        run.finish(_manifest(config, run, parents, trainee, data, notes))


def fit(trainee: Trainee, data: Mixture, judge: Judge | None, pad_id: int, run: Run) -> None:
    """All steps and looks from where the trainee stands; Interrupted after SIGTERM."""
    config, total = trainee.config, trainee.config.epochs * data.steps
    while trainee.step < total or trainee.figures:
        if not trainee.figures:
            factor = cosine(trainee.step, total, config.final_lr_fraction)
            examples = data.at(trainee.step)
            trainee.figures = train_step(trainee, examples, pad_id, factor, run.interrupt)
        epoch = -(-trainee.step // data.steps)
        looked: Figures = {}
        if trainee.step % (config.eval_every or data.steps) == 0 or trainee.step == total:
            looked = look(trainee, data.valid, judge, pad_id, epoch, run.interrupt)
        run.log(step=trainee.step, total=total, epoch=epoch, **trainee.figures, **looked)
        trainee.figures = {}
        stopping = run.stopping
        if stopping or trainee.step % config.checkpoint_every == 0:
            trainee.save()
        if stopping:
            run.stop()


# ---- one step -----------------------------------------------------------------------------------


def train_step(
    trainee: Trainee,
    examples: Sequence[Example],
    pad_id: int,
    factor: float,
    check: Check,
) -> Figures:
    """One optimiser step on a batch, cut into micro-batches; the loss is a mean over its tokens."""
    trainee.model.stack.train(True, trainee.step)
    config = trainee.config
    with trainee.optimiser.all_or_nothing():
        loss = backward_loss(
            trainee.model,
            examples,
            pad_id,
            config.micro_tokens,
            count_targets(examples),
            pack_tokens=trainee.pack_tokens,
            check=check,
        )
    check_finite(loss, "loss")
    (norm,) = trainee.optimiser.step(factor)
    trainee.step += 1
    trainee.meter.tokens += sum(len(example.ids) for example in examples)
    return {
        "loss": loss,
        "learning_rate": factor * config.learning_rate,
        "gradient_norm": norm,
        "tokens_per_second": trainee.meter.tokens / trainee.meter.seconds,
    }


def count_targets(examples: Sequence[Example]) -> int:
    """Tokens that are learned."""
    return sum(sum(example.learned) for example in examples)


def backward_loss(
    model: LanguageModel,
    examples: Sequence[Example],
    pad_id: int,
    micro_tokens: int,
    targets: int,
    *,
    pack_tokens: int | None = None,
    check: Check = go_on,
) -> float:
    """Add the gradient of the batch's token mean, micro-batch by micro-batch; returns the loss.

    ``check`` as in ``own_micro_batches``.
    """
    loss = 0.0
    device = model.stack.device
    batches = example_batches(
        examples, pad_id, micro_tokens, device,
        pack_tokens=pack_tokens, idle=idle_pass(model), check=check,
    )  # fmt: skip
    with distributed.together(in_step=model.stack.in_step):
        for batch in batches:
            part = token_mean(model, batch, targets)
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
    return distributed.total(loss)


def token_mean(model: LanguageModel, batch: ExampleBatch, targets: int) -> torch.Tensor:
    """This micro-batch's share of the cross-entropy, a scalar; ``targets`` is the whole count."""
    lower = model.stack.lower(batch.tokens)
    return -model.total_logprob(batch.tokens, batch.completion, lower=lower) / targets


# ---- which weights are kept ---------------------------------------------------------------------


@torch.no_grad()
def validation_loss(
    model: LanguageModel,
    examples: Sequence[Example],
    pad_id: int,
    micro_tokens: int,
    *,
    pack_tokens: int | None = None,
    check: Check = go_on,
) -> float:
    """Cross-entropy per target token of held-out demonstrations; NaN where there are none.

    ``check`` as in ``own_micro_batches``.
    """
    if not examples:
        return math.nan
    model.stack.train(False)
    targets, loss, device = count_targets(examples), 0.0, model.stack.device
    batches = example_batches(
        examples, pad_id, micro_tokens, device,
        pack_tokens=pack_tokens, idle=idle_pass(model), check=check,
    )  # fmt: skip
    with distributed.together(in_step=model.stack.in_step):
        for batch in batches:
            loss += float(token_mean(model, batch, targets))
    return distributed.total(loss)


def look(
    trainee: Trainee,
    valid: Sequence[Example],
    judge: Judge | None,
    pad_id: int,
    epoch: int,
    check: Check,
) -> Figures:
    """Measure on the valid split; keep the weights if they are the best so far.

    Best is the highest score of the reward model, or else the lowest validation loss.
    """
    if not valid:
        return {}
    config = trainee.config
    loss = validation_loss(
        trainee.model,
        valid,
        pad_id,
        config.micro_tokens,
        pack_tokens=trainee.pack_tokens,
        check=check,
    )
    figures = {"valid_loss": loss}
    if judge is not None:
        figures |= judge.look(trainee.model, check)
    here = figures | {"step": trainee.step, "epoch": epoch}
    if loss < trainee.lowest.get("valid_loss", math.inf):
        trainee.lowest = here
    if worth(figures) > worth(trainee.chosen):
        trainee.chosen, trainee.best = here, copied(trainee.weights)
    return figures


def worth(figures: Figures) -> float:
    """What weights are chosen by, the more the better."""
    return figures.get("valid_reward", -figures.get("valid_loss", math.inf))


def _judge(config: SFTConfig, codec: Codec, model: LanguageModel) -> Judge | None:
    if config.reward is None:
        return None
    whole = model.model.config.get_text_config()
    return Judge(config, config.reward, codec, getattr(whole, "max_position_embeddings", None))


# ---- the manifest -------------------------------------------------------------------------------


def figures_of(trainee: Trainee, data: Mixture) -> dict[str, Any]:
    """The last figures, for the manifest."""
    rows = sum(len(source.data.train) for source in data.demonstrations)
    figures = trainee.meter.figures() | {"steps": trainee.step, "train_rows": rows}
    if trainee.chosen:
        chosen = dict(trainee.chosen)
        figures |= {"best_epoch": chosen.pop("epoch"), "best_step": chosen.pop("step")} | chosen
    if "valid_reward" in trainee.chosen and trainee.lowest:
        figures["lowest_valid_loss"] = trainee.lowest["valid_loss"]
        figures["lowest_valid_loss_epoch"] = trainee.lowest["epoch"]
    if len(data.sources) > 1:
        figures["sources"] = data.taken(trainee.config.epochs)
    return figures


def kept_note(trainee: Trainee, parents: Sequence[Parent]) -> str:
    """Which weights were kept, and by what they were chosen."""
    config, chosen, lowest = trainee.config, trainee.chosen, trainee.lowest
    if not chosen:
        return "The weights are the last ones: there are no valid demonstrations to choose by."
    step = f" (step {chosen['step']})" if config.eval_every else ""
    which = f"The weights are those of epoch {chosen['epoch']} of {config.epochs}{step}"
    if "valid_reward" not in chosen:
        return f"{which}, which has the lowest validation loss."
    name = next(parent.name for parent in parents if parent.role == "reward")
    said = f"{which}, whose answers score highest with the reward model {name}."
    if lowest and lowest["step"] < chosen["step"]:
        said += (
            f" The validation loss was lowest in epoch {lowest['epoch']} and rose afterwards:"
            " that overfitting is expected, and the score goes on rising (InstructGPT, C.1)."
        )
    return said


def _manifest(
    config: SFTConfig,
    run: Run,
    parents: tuple[Parent, ...],
    trainee: Trainee,
    data: Mixture,
    notes: tuple[str, ...],
) -> Manifest:
    figures = figures_of(trainee, data)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="sft",
        name=run.out.name,
        rows=figures["train_rows"],
        files=folder_files(run.out),
        parents=parents,
        settings=settings_of(config),
        metrics=figures,
        notes=(*notes, kept_note(trainee, parents)),
    )
