"""What the tests of SFT share: settings for the tiny models, a run, gradients, a reward model."""

import json
from pathlib import Path
from typing import Any

import torch

from trainer import sft
from trainer.config import SFTConfig, config_from_plain
from trainer.models import LanguageModel, ScalarModel, save_reward_model, trainable
from trainer.stage_io import open_run

CPU = torch.device("cpu")


def config(out: Path, model: Path, demonstrations: Path | str = "", **changes: Any) -> SFTConfig:
    plain: dict[str, Any] = {
        "out": str(out),
        "model": str(model),
        "demonstrations": str(demonstrations),
        "learning_rate": 3e-3,
        "batch": 4,
        "epochs": 3,
        "precision": "fp32",
        "max_tokens": 200,
    }
    made: SFTConfig = config_from_plain("sft", json.loads(json.dumps(plain | changes)))
    return made


def train(settings: SFTConfig) -> list[dict[str, Any]]:
    """Run the stage; the figures it logged, the step among them."""
    with open_run(settings.out) as run:
        sft.run(settings, run)
        return [line["values"] | {"step": line["step"]} for line in run.lines()]


def gradients(model: LanguageModel) -> dict[str, torch.Tensor]:
    """The gradients that were added up, which are then cleared."""
    found = {n: p.grad.clone() for n, p in trainable(model.model).items() if p.grad is not None}
    model.model.zero_grad()
    return found


def build_reward(folder: Path, model: Path, *, pad_id: int, bias: float = 0.0) -> Path:
    """A reward model with the backbone of ``model`` and a drawn head."""
    fresh = ScalarModel.fresh(model, 0, "fp32", CPU, pad_id=pad_id, seed=3, scale=4.0)
    weights = {name: p.detach() for name, p in trainable(fresh.model).items() if name != "bias"}
    save_reward_model(model, weights, folder, bias=bias, pad_id=pad_id)
    return folder
