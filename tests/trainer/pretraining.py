"""What the tests of pretraining share: settings for tiny models, a trainee, a text that repeats."""

from pathlib import Path
from typing import Any

from trainer.config import PretrainConfig
from trainer.pretrain import Trainee
from trainer.runtime import Checkpoints
from trainer.text import Codec

REPEATED = "The small dog slept near the nets, and the gulls sat on the wall. " * 60


def settings(out: Path, text: Path, **changes: Any) -> PretrainConfig:
    plain: dict[str, Any] = {
        "max_tokens": 32,
        "batch": 8,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "valid_every": 10,
    }
    return PretrainConfig(out=str(out), text=str(text), **plain | changes)


def trainee_of(config: PretrainConfig) -> Trainee:
    codec = Codec.load(config.model)
    return Trainee(config, codec, Checkpoints(Path(config.out), config, []))
