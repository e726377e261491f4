"""Settings: the paper's defaults, refusals by name, and what may be imported for nothing."""

import dataclasses
import json
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import MODULES
from trainer.config import (
    SERVE,
    STAGES,
    PPOConfig,
    SampleConfig,
    ServeConfig,
    config_from_plain,
    load_config,
)
from trainer.config.ranges import range_of
from trainer.errors import ConfigError, TrainerError

ROOT = Path(__file__).parents[2]
SAMPLE = {"out": "o", "model": "m", "prompts": "p"}


CONFIGS = STAGES | {SERVE: ServeConfig}


def required(stage: str) -> dict[str, Any]:
    """What a stage cannot do without."""
    return {
        field.name: ["x"] if field.type == tuple[str, ...] else "x"
        for field in dataclasses.fields(CONFIGS[stage])
        if field.default is dataclasses.MISSING
    }


def numbers(*kinds: Any) -> list[tuple[str, str]]:
    """(stage, setting) of all that are of one of these types, or null."""
    hints = {stage: typing.get_type_hints(config) for stage, config in CONFIGS.items()}
    wanted = {*kinds, *(kind | None for kind in kinds)}
    return [
        (stage, name) for stage, of in hints.items() for name, hint in of.items() if hint in wanted
    ]


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
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of 'auto', 'fp32', 'bf16'"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_plain("sample", SAMPLE | change)


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "name"), numbers(int, float))
def test_every_number_has_a_range(stage: str, name: str) -> None:
    assert range_of(stage, name) is not None


@pytest.mark.parametrize(("stage", "name"), numbers(int, float))
def test_no_number_may_be_far_below_zero_but_a_score(stage: str, name: str) -> None:
    change = required(stage) | {name: -(10**6)}
    if name == "missing_end_score":
        assert config_from_plain(stage, change).missing_end_score == -1e6
        return
    with pytest.raises(ConfigError, match=rf"{stage} settings\.{name}\b"):
        config_from_plain(stage, change)


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
@pytest.mark.parametrize(("stage", "name"), numbers(float))
def test_what_is_no_finite_number_is_refused(stage: str, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        config_from_plain(stage, required(stage) | {name: json.loads(value)})


@pytest.mark.parametrize(
    ("stage", "name", "value", "message"),
    [
        ("ppo", "clip", 0, "clip is 0.0; it must be above 0."),
        ("ppo", "value_clip", 0, "value_clip is 0.0; it must be above 0."),
        ("ppo", "gamma", 1.01, "gamma is 1.01; it must be from 0 to 1."),
        ("ppo", "lam", 7, "lam is 7.0; it must be from 0 to 1."),
        ("ppo", "ema_decay", 1, "ema_decay is 1.0; it must be 0 or more and under 1."),
        ("ppo", "adam_beta1", 1, "adam_beta1 is 1.0; it must be 0 or more and under 1."),
        ("ppo", "adam_beta2", 2, "adam_beta2 is 2.0; it must be 0 or more and under 1."),
        ("ppo", "adam_eps", 0, "adam_eps is 0.0; it must be above 0."),
        ("ppo", "ptx_per_episode", 0, "ptx_per_episode is 0.0; it must be above 0."),
        ("ppo", "ptx_tokens", 1, "ptx_tokens is 1; it must be at least 2."),
        ("ppo", "temperature", 0, "temperature is 0.0; it must be above 0."),
        ("ppo", "importance_cap", 0.9, "importance_cap is 0.9; it must be at least 1."),
        ("ppo", "target_kl_stop", 0, "target_kl_stop is 0.0; it must be above 0, or null."),
        ("sft", "residual_dropout", 1, "residual_dropout is 1.0; it must be 0 or more and under 1"),
        ("sft", "final_lr_fraction", 5, "final_lr_fraction is 5.0; it must be from 0 to 1."),
        ("sft", "max_tokens", 1, "max_tokens is 1; it must be at least 2."),
        ("sft", "seed", 2**63, f"seed is {2**63}; it must be from 0 to 2^63 - 1."),
        ("pretrain", "mask_rate", 1.1, "mask_rate is 1.1; it must be above 0 and at most 1."),
        ("pretrain", "max_steps", 0, "max_steps is 0; it must be above 0, or null."),
        ("serve", "port", 65536, "port is 65536; it must be from 1 to 65535."),
        ("serve", "keep", 1, "keep is 1; it must be at least 2."),
    ],
)
def test_a_number_out_of_range_is_named(stage: str, name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{stage} settings.{message}")):
        config_from_plain(stage, required(stage) | {name: value})


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("sample", ["temperature", "threads", "seed"]),
        ("sft", ["temperature", "adam_beta1", "adam_beta2", "final_lr_fraction", "freeze_layers"]),
        ("ppo", ["max_grad_norm", "weight_decay", "warmup", "value_coef", "gamma", "lam"]),
        ("ppo", ["ema_decay", "kl_coef", "ptx_coef", "eval_prompts", "importance_above"]),
        ("reward", ["head_scale", "margin", "l2", "label_smoothing", "frozen_states_mb"]),
        ("pretrain", ["valid_windows", "warmup_fraction", "mask_token_share"]),
    ],
)
def test_zero_stays_where_it_means_something(stage: str, names: list[str]) -> None:
    config = config_from_plain(stage, required(stage) | dict.fromkeys(names, 0))
    assert [getattr(config, name) for name in names] == [0] * len(names)


def test_the_ends_of_a_range_that_holds_them_are_allowed() -> None:
    ends = {"importance_cap": 1, "ptx_tokens": 2, "gamma": 1, "seed": 2**63 - 1, "clip": 1e-9}
    config = config_from_plain("ppo", {"out": "o"} | ends)
    assert {name: getattr(config, name) for name in ends} == ends


# ---- whole settings -----------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"out": \n oops}', "is not JSON: .* at line 2"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_file_that_is_not_json_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ConfigError, match=f"config.json {message}"):
        load_config("sample", tmp_path / "config.json")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PPOConfig(out="o").batch = 1  # type: ignore[misc]


@pytest.mark.parametrize("stage", STAGES)
def test_settings_survive_json(stage: str) -> None:
    config = config_from_plain(stage, required(stage))
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
