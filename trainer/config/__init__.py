"""Settings of every stage: frozen dataclasses, one sentence a field. Standard library only.

A stage reads one JSON object. An unknown key, a wrong type or a number out of range is refused
with a sentence that names it. Defaults are the paper's (InstructGPT, arXiv 2203.02155, appendix
C) where it reports them; a profile of the web app overrides them for small machines.
"""

import dataclasses
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
from trainer.config.ranges import range_of
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
from trainer.strict import from_plain, parsed

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

SERVE = "serve"
"""No stage, as it makes nothing and has no end, but it has settings too."""


def config_from_plain(stage: str, plain: Any) -> Any:
    """Settings of a stage from parsed JSON; ConfigError names what does not fit."""
    if stage not in STAGES and stage != SERVE:
        raise ConfigError(f"There is no stage {stage!r}; there are {', '.join(STAGES)}.")
    config = from_plain(
        STAGES.get(stage, ServeConfig), plain, where=f"{stage} settings", error=ConfigError
    )
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), range_of(stage, field.name)
        if allowed is not None and value is not None and not allowed.holds(value):
            says = allowed.says + (", or null" if field.default is None else "")
            raise ConfigError(f"{stage} settings.{field.name} is {value}; it must be {says}.")
    return config


def load_config(stage: str, path: Path) -> Any:
    """Settings of a stage from a JSON file."""
    try:
        plain = parsed(path.read_bytes(), where=str(path), error=ConfigError)
    except OSError as error:
        raise ConfigError(f"Cannot read the settings {path}: {error.strerror}.") from None
    return config_from_plain(stage, plain)
