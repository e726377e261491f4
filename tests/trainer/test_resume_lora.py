"""With LoRA too, a run that was killed ends in exactly the weights of an unbroken one."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.resuming import assert_goes_on_after_a_kill, carried_out
from tests.trainer.snapshots import write_all
from tests.trainer.tiny import build_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of the stages, each of four optimiser steps, and an unbroken run of each."""
    root = tmp_path_factory.mktemp("resume")
    data = {name: str(path) for name, path in write_all(root / "data").items()}
    tiny = str(build_tiny(root / "tiny", "gpt2"))  # has dropout: the random state matters
    shared = {
        "learning_rate": 1e-2,
        "seed": 4,
        "batch": 6,
        "threads": 1,
        "checkpoint_every": 2,
        "lora_rank": 4,
        "gradient_checkpointing": True,
        "freeze_layers": 1,
        "demonstrations": data["demonstrations"],
    }
    ppo = {name: value for name, value in shared.items() if name != "demonstrations"}
    found: dict[str, dict[str, Any]] = {
        "sft": {**shared, "model": tiny, "epochs": 2, "lora_dropout": 0.2, "residual_dropout": 0.2},
        "reward": {
            **shared,
            "model": str(root / "sft" / "model"),
            "comparisons": data["comparisons"],
            "epochs": 2,
        },
        "ppo": {
            **ppo,
            "policy": str(root / "sft" / "model"),
            "reward": str(root / "reward" / "model"),
            "prompts": data["prompts"],
            "pretrain_text": data["pretrain_text"],
            "value_learning_rate": 1e-2,
            "episodes": 16,
            "batch": 8,
            "minibatch": 4,
            "max_new_tokens": 8,
            "ptx_per_episode": 0.5,
            "ptx_tokens": 12,
            "warmup": 2,
            "ema_decay": 0.5,
        },
    }
    return carried_out(found, root)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_two_steps_a_kill_and_two_steps_are_four_steps(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    out = tmp_path / stage
    assert_goes_on_after_a_kill(stages[stage], stage, out, "step", 3, checkpoints=1)
    name = "adapter/adapter_model.safetensors"
    assert (out / name).read_bytes() == (stages[stage]["unbroken"] / name).read_bytes()
