"""With LoRA too, a run that was killed ends in exactly the weights of an unbroken one."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.snapshots import write_all
from tests.trainer.test_resume import assert_as_unbroken, command, config_file, run_killed
from tests.trainer.tiny import build_tiny
from trainer.__main__ import main

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
    for stage, settings in found.items():
        assert main(command(stage, config_file(settings, root / stage))) == 0
        settings["unbroken"] = root / stage
    return found


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_two_steps_a_kill_and_two_steps_are_four_steps(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    out = tmp_path / stage
    config = config_file(stages[stage], out)
    assert run_killed(stage, config, "step", 3) == -signal.SIGKILL
    assert len(list((out / "checkpoints").glob("*.pt"))) == 1
    assert main(command(stage, config)) == 0
    assert_as_unbroken(out, stages[stage]["unbroken"])
    name = "adapter/adapter_model.safetensors"
    assert (out / name).read_bytes() == (stages[stage]["unbroken"] / name).read_bytes()
