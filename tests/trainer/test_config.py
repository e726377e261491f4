"""Settings: the paper's defaults, refusals by name, and what may be imported for nothing."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import MODULES
from trainer.config import STAGES, PPOConfig, SampleConfig, config_from_plain, load_config
from trainer.errors import ConfigError, TrainerError

ROOT = Path(__file__).parents[2]
SAMPLE = {"out": "o", "model": "m", "prompts": "p"}


def test_defaults_are_the_papers() -> None:
    ppo = PPOConfig(out="o")
    assert (ppo.batch, ppo.minibatch, ppo.epochs, ppo.episodes) == (512, 64, 1, 256_000)
    assert (ppo.clip, ppo.kl_coef, ppo.ptx_coef, ppo.ptx_per_episode) == (0.2, 0.02, 27.8, 8)
    assert (ppo.ema_decay, ppo.temperature, ppo.gamma, ppo.warmup) == (0.992, 1.0, 1.0, 10)
    assert (ppo.adam_beta1, ppo.adam_beta2) == (0.9, 0.95)
    assert ppo.iterations == 500
    sft = config_from_plain("sft", {"out": "o"})
    assert (sft.epochs, sft.learning_rate, sft.final_lr_fraction) == (16, 9.65e-6, 0.1)
    reward = config_from_plain("reward", {"out": "o"})
    assert (reward.epochs, reward.learning_rate, reward.batch) == (1, 9e-6, 64)


def test_a_last_smaller_batch_counts_as_an_iteration() -> None:
    assert dataclasses.replace(PPOConfig(out="o"), episodes=513).iterations == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, "sample settings has the unknown field 'sed'; known are out, model"),
        ({"k": "4"}, "sample settings.k is '4'; it must be of type int"),
        ({"k": True}, "sample settings.k is True; it must be of type int"),
        ({"k": 0}, "sample settings.k is 0; it must be above 0"),
        ({"temperature": -0.1}, "temperature is -0.1; it must not be negative"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of 'auto', 'fp32', 'bf16'"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_plain("sample", SAMPLE | change)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="sample settings lacks the field 'prompts'"):
        config_from_plain("sample", {"out": "o", "model": "m"})


def test_a_whole_number_serves_as_a_fraction() -> None:
    config = config_from_plain("sample", SAMPLE | {"temperature": 1})
    assert config == SampleConfig(out="o", model="m", prompts="p")
    assert type(config.temperature) is float


def test_an_unknown_stage_is_told_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="no stage 'dance'; there are base, pretrain, text, sample, sft"
    ):
        config_from_plain("dance", {})


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"out": \n oops}')
    with pytest.raises(ConfigError, match=r"config.json is not JSON: .* at line 2"):
        load_config("sample", tmp_path / "config.json")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PPOConfig(out="o").batch = 1  # type: ignore[misc]


@pytest.mark.parametrize("stage", STAGES)
def test_settings_survive_json(stage: str) -> None:
    required = {
        field.name: ["x"] if field.type == tuple[str, ...] else "x"
        for field in dataclasses.fields(STAGES[stage])
        if field.default is dataclasses.MISSING
    }
    config = config_from_plain(stage, required)
    assert config_from_plain(stage, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_every_error_has_an_exit_code_of_its_own() -> None:
    kinds: list[type[TrainerError]] = [TrainerError, *TrainerError.__subclasses__()]
    assert sorted(kind.exit_code for kind in kinds) == list(range(1, len(kinds) + 1))


def test_every_stage_has_a_module() -> None:
    assert set(MODULES) == set(STAGES)
    for module in MODULES.values():
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()


def test_the_contract_and_the_command_load_no_heavy_library() -> None:
    code = (
        "import sys; import trainer.records, trainer.config, trainer.stage_io, trainer.__main__\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'django', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_command_names_its_stages() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "dance", "--config", "x"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "invalid choice: 'dance'" in done.stderr
