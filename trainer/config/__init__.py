"""Settings of every stage: frozen dataclasses, one sentence a field. Standard library only.

A stage reads one JSON object. An unknown key or a wrong type is refused with a sentence that
names it. Defaults are the paper's (InstructGPT, arXiv 2203.02155, appendix C) where it reports
them; a profile of the web app overrides them for small machines.
"""

import json
from pathlib import Path
from typing import Any

from trainer.config.drawing import (
    BaseConfig,
    BestConfig,
    Precision,
    SampleConfig,
    ScoreConfig,
    ServeConfig,
    TextConfig,
)
from trainer.config.ppo import KLEstimator, PPOConfig
from trainer.config.training import (
    MixtureSource,
    ObjectiveName,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
    TrainConfig,
    TrainOn,
)
from trainer.errors import ConfigError
from trainer.known_rewards import KNOWN_REWARDS, KnownReward
from trainer.strict import from_plain

__all__ = [
    "BaseConfig",
    "BestConfig",
    "ConfigError",
    "KLEstimator",
    "KNOWN_REWARDS",
    "KnownReward",
    "MixtureSource",
    "ObjectiveName",
    "PPOConfig",
    "Precision",
    "PretrainConfig",
    "RewardConfig",
    "SERVE",
    "SFTConfig",
    "STAGES",
    "SampleConfig",
    "ScoreConfig",
    "ServeConfig",
    "TextConfig",
    "TrainConfig",
    "TrainOn",
    "config_from_plain",
    "load_config",
]

STAGES: dict[str, type[Any]] = {
    "base": BaseConfig,
    "pretrain": PretrainConfig,
    "text": TextConfig,
    "sample": SampleConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "best": BestConfig,
    "score": ScoreConfig,
}

_POSITIVE = {
    "k", "batch", "chunk", "epochs", "minibatch", "episodes", "max_tokens", "micro_tokens",
    "max_new_tokens", "max_prompt_tokens", "learning_rate", "value_learning_rate",
    "checkpoint_every", "keep_checkpoints", "documents", "ptx_tokens", "pretrain_tokens", "generate_batch", "eval_every",
    "epoch_examples", "pack_tokens", "eval_new_tokens",
    "kl_target", "kl_horizon", "null_space_gradients", "null_space_sequences", "lora_alpha",
    "vllm_timeout", "port", "keep",
}  # fmt: skip
_NOT_NEGATIVE = {
    "temperature", "kl_coef", "ptx_coef", "freeze_layers", "head_scale", "missing_end_penalty",
    "frozen_states_mb", "lora_rank", "lora_dropout", "value_warmup", "waiting",
}  # fmt: skip


SERVE = "serve"
"""No stage, as it makes nothing and has no end, but it has settings too."""


def config_from_plain(stage: str, plain: Any) -> Any:
    """Settings of a stage from parsed JSON; ConfigError names what does not fit."""
    if stage not in STAGES and stage != SERVE:
        raise ConfigError(f"There is no stage {stage!r}; there are {', '.join(STAGES)}.")
    config = from_plain(
        STAGES.get(stage, ServeConfig), plain, where=f"{stage} settings", error=ConfigError
    )
    for name, value in vars(config).items():
        if name in _POSITIVE and value is not None and not value > 0:
            raise ConfigError(f"{stage} settings.{name} is {value}; it must be above 0.")
        if name in _NOT_NEGATIVE and value < 0:
            raise ConfigError(f"{stage} settings.{name} is {value}; it must not be negative.")
        if name == "lora_dropout" and not value < 1:
            raise ConfigError(f"{stage} settings.{name} is {value}; it must be under 1.")
    return config


def load_config(stage: str, path: Path) -> Any:
    """Settings of a stage from a JSON file."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the settings {path}: {error.strerror}.") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error.msg} at line {error.lineno}.") from None
    return config_from_plain(stage, plain)
