"""The run around PPO: what it is made from, what all its phases need, and its manifest."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from trainer import distributed
from trainer.actors import Actors, Progress
from trainer.config import PPOConfig
from trainer.data import Prompt, Splits, load_prompts
from trainer.errors import ConfigError, DataError
from trainer.models import save_language_model, save_reward_model
from trainer.null_space import NullSpace
from trainer.pretrain_text import PretrainText, text_parent
from trainer.records import SCHEMA_VERSION, Manifest, Parent
from trainer.rollout import Rollout
from trainer.runtime import settings_of
from trainer.sharding import copied
from trainer.stage_io import MODEL, Run, folder_files, parent_of, reward_parents

VALUE = "value"


class Work(NamedTuple):
    """What every phase needs."""

    config: PPOConfig
    run: Run
    actors: Actors
    progress: Progress
    prompts: Splits[Prompt]
    text: PretrainText | None
    null_space: NullSpace | None = None


def pause(work: Work, rollout: Rollout, scored: Any) -> NoReturn:
    """End after SIGTERM, to go on inside this rollout batch when retried."""
    work.progress.in_work = {"rollout": rollout._asdict(), "scored": scored._asdict()}
    work.progress.save()
    work.run.stop()


def run_parents(config: PPOConfig) -> list[Parent]:
    """What the run is made from; ConfigError if text is needed and not named."""
    parents = [
        parent_of("policy", config.policy),
        *reward_parents(config.reward, config.reward_function),
        *([parent_of("value", config.value)] if config.value else []),
        parent_of("prompts", config.prompts),
    ]
    if _reads_text(config):
        if config.pretrain_text is None:
            raise ConfigError(_NO_TEXT[config.against_forgetting].format(config.ptx_coef))
        parents.append(text_parent(config.pretrain_text))
    return parents


_NO_TEXT = {
    "mix": "ptx_coef is {} but there is no pretrain_text: name a file or a folder of text, or set"
    " ptx_coef to 0.",
    "null_space": 'against_forgetting is "null_space" but there is no pretrain_text: name a file or'
    ' a folder of text, or set against_forgetting to "none".',
}


def _reads_text(config: PPOConfig) -> bool:
    return config.mixes or config.against_forgetting == "null_space"


def held_prompts(config: PPOConfig, actors: Actors) -> Splits[Prompt]:
    """The prompts; DataError if the best weights are to be chosen by held-out ones and none is there."""
    prompts = load_prompts(config.prompts, actors.codec, config.max_prompt_tokens)
    if config.keep_best and not prompts.valid:
        raise DataError(
            f"keep_best chooses by held-out prompts, and {config.prompts} has none in the valid"
            " split: add some, or set keep_best to false."
        )
    return prompts


def pretraining_text(config: PPOConfig, actors: Actors) -> PretrainText | None:
    """The sequences of the pretraining mix, or those whose gradients are stored."""
    if not _reads_text(config) or config.pretrain_text is None:
        return None
    wanted = config.null_space_gradients * config.null_space_sequences
    if config.mixes:
        steps = config.iterations * -(-config.batch // config.minibatch) * config.epochs
        wanted = steps * math.ceil(config.minibatch * config.ptx_per_episode)
    return PretrainText(config.pretrain_text, actors.codec, config.ptx_tokens, wanted, config.seed)


def save_models(work: Work) -> None:
    """Write model/ and, if it is asked for, value/. Asked together."""
    config, actors, out = work.config, work.actors, work.run.out
    policy = work.progress.result()
    value = copied(work.progress.value_weights) if config.save_value else {}
    if not distributed.is_main():
        return
    save_language_model(config.policy, policy, out / MODEL, config)
    if value:
        parent = config.value or (config.reward if actors.starts_value else config.policy)
        bias, pad_id = float(value["score.bias"]), actors.codec.pad_id
        save_reward_model(parent, value, out / VALUE, bias=bias, pad_id=pad_id)


def run_manifest(work: Work, parents: Sequence[Parent], figures: dict[str, float]) -> Manifest:
    """What the finished run says of itself."""
    config, progress = work.config, work.progress
    best = {f"best_{k}": v for k, v in progress.best.items() if k != "weights"}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="ppo",
        name=work.run.out.name,
        rows=len(work.prompts.train),
        files=folder_files(work.run.out),
        parents=tuple(parents),
        settings=settings_of(config),
        metrics=figures
        | progress.meter.figures()
        | {"episodes": config.episodes, "steps": progress.step}
        | best,
        notes=(
            *work.prompts.notes,
            *work.actors.notes,
            *(work.text.notes if work.text else ()),
            *_weights_notes(work),
        ),
    )


def _weights_notes(work: Work) -> list[str]:
    """Which weights were saved, and what held them back."""
    config, best, notes = work.config, work.progress.best, []
    if work.null_space is not None:
        notes.append(
            "Steps of the policy were projected onto the null space of"
            f" {work.null_space.size} independent pretraining gradients"
            f" ({work.null_space.megabytes:.1f} MB)."
        )
    if config.ema_decay > 0:
        notes.append("The weights are the exponential moving average over optimiser steps.")
    if best:
        notes.append(
            f"The weights are those after rollout batch {best['iteration']} of"
            f" {config.iterations} (optimiser step {best['step']}), where the held-out reward"
            f" - {config.kl_coef} KL was best: {best['objective']:.4f}."
        )
    return notes
