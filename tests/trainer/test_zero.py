"""What Adam keeps shared out by DeepSpeed over two processes: the run is that of one process, and its
checkpoints go on either way.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.children import ROOT
from tests.trainer.resuming import assert_as_unbroken, carried_out, command, config_file, figures
from tests.trainer.tiny import build_tiny
from tests.trainer.two_processes import (
    assert_alike,
    free_port,
    newest,
    run_two,
    settings_of_stages,
    two,
    weights_of,
)
from trainer.__main__ import main
from trainer.config import config_from_plain
from trainer.errors import ConfigError, ModelError, NumericError, PeerLost, Stopped
from trainer.launcher import launched_plan, require_deepspeed
from trainer.records import read_manifest

real = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]
STAGES = ["pretrain", "pretrain masked", "sft bf16", "reward", "ppo", "ppo value alone"]
PPO_WITH: dict[str, dict[str, Any]] = {
    "LoRA": {"lora_rank": 4, "freeze_layers": 0},
    "the null space": {
        "against_forgetting": "null_space",
        "null_space_gradients": 4,
        "null_space_sequences": 2,
    },
    "an early stop": {"target_kl_stop": 1e-5, "weight_decay": 0.1},
}

SHARES = """
import sys, torch
from trainer import distributed
from trainer.config import SFTConfig
from trainer.errors import ModelError, NumericError
from trainer.models import LanguageModel, trainable
from trainer.runtime import Optimiser
from trainer.padded import pad

folder, stage, what = sys.argv[1:]
cpu = torch.device("cpu")
decay = 0.1 if what == "unreached" else 0.0
config = SFTConfig(out="-", zero_stage=int(stage), weight_decay=decay)

def loss(model, row):
    batch = pad([row], 0, cpu)
    response = batch.mask.clone()
    response[:, 0] = False
    return model.logprobs(batch, response).sum()

with distributed.joined():
    model = LanguageModel.load(folder, 0, "fp32", cpu)
    weights = list(trainable(model.model).values())
    if what == "unreached":
        weights.append(torch.nn.Parameter(torch.ones(3)))
    optimiser = Optimiser([(weights, 1e-2)], config)
    before = [weight.detach().clone() for weight in weights]
    rows = [[5, 6, 7, 8, 9], [3, 4, 5], [9, 8, 7, 6]]
    for row in rows if distributed.is_main() else rows[:1]:  # another number of passes in each
        loss(model, row).backward()
    if what == "infinite" and distributed.is_main():
        weights[0].grad.view(-1)[0] = torch.inf
    try:
        optimiser.step(1.0)
    except (ModelError, NumericError) as error:
        assert all(torch.equal(a, b) for a, b in zip(before, weights)), "changed"
        sys.exit(error.exit_code)
    assert not any(weight.grad is not None for weight in weights)
    held = sum(t.numel() for kept in optimiser.adam.state.values() for t in kept.values())
    assert held < 0.6 * 2 * sum(weight.numel() for weight in weights), held
"""

LAUNCHED = """
import sys
import trainer.zero
from trainer.__main__ import leave, main

real, taken = trainer.zero.ZeroShares.step, []
trainer.zero.ZeroShares.step = lambda *given: taken.append(1) or real(*given)
leave(main(sys.argv[1:]) or 40 * (not taken))
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of the stages, and a run of each on one process, which holds all."""
    root = tmp_path_factory.mktemp("whole")
    found = settings_of_stages(root)
    chosen = {name: found[name] for name in ("sft", *STAGES)}
    for settings in chosen.values():
        settings |= {"shard": False, "zero_stage": 1}
    return carried_out(chosen, root)


class TestTwoProcesses:
    pytestmark = real

    @pytest.mark.parametrize(
        ("what", "code"),
        [("finite", 0), ("infinite", NumericError.exit_code), ("unreached", ModelError.exit_code)],
    )
    def test_each_holds_half_of_the_moments_or_nothing_changes(
        self, tmp_path: Path, what: str, code: int
    ) -> None:
        ended = two(SHARES, str(build_tiny(tmp_path, "llama")), "2", what)
        assert [status for status, _ in ended] == [code] * 2, "\n".join(words for _, words in ended)

    @pytest.mark.parametrize("stage", STAGES)
    def test_they_train_what_one_trains(
        self, stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
    ) -> None:
        alone = stages[stage]["unbroken"]
        zero = 1 + STAGES.index(stage) % 2
        assert run_two(stage, config_file(stages[stage] | {"zero_stage": zero}, tmp_path)) == [0, 0]
        assert_alike(figures(tmp_path), figures(alone))
        both, one = newest(tmp_path), newest(alone)
        if stage == "reward":  # draws from no global noise, so seeds none
            del both["random"], one["random"]
        assert_alike(both, one)
        assert_alike(weights_of(tmp_path), weights_of(alone))
        assert read_manifest(tmp_path).settings == read_manifest(alone).settings

    @pytest.mark.parametrize("name", PPO_WITH)
    def test_what_changes_the_step_goes_together_with_it(
        self, stages: dict[str, dict[str, Any]], tmp_path: Path, name: str
    ) -> None:
        settings = stages["ppo"] | PPO_WITH[name]
        alone, both = tmp_path / "alone", tmp_path / "both"
        assert main(command("ppo", config_file(settings, alone))) == 0
        assert run_two("ppo", config_file(settings | {"zero_stage": 2}, both)) == [0, 0]
        assert_alike(figures(both), figures(alone))
        assert_alike(newest(both), newest(alone))

    @pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 2)])
    def test_a_checkpoint_goes_on_with_and_without_it(
        self, stages: dict[str, dict[str, Any]], tmp_path: Path, before: int, after: int
    ) -> None:
        settings, alone = stages["ppo"], stages["ppo"]["unbroken"]
        config = config_file(settings | {"zero_stage": before}, tmp_path)
        assert run_two("ppo", config, number=2) == [Stopped.exit_code] * 2
        assert newest(tmp_path)["step"] == 2
        config = config_file(settings | {"zero_stage": after}, tmp_path)
        if after:
            assert run_two("ppo", config) == [0, 0]
        else:  # also on another number of processes
            assert main(command("ppo", config)) == 0
        assert_alike(figures(tmp_path), figures(alone))
        assert_alike(weights_of(tmp_path), weights_of(alone))

    def test_a_killed_run_ends_in_the_weights_of_an_unbroken_one(
        self, stages: dict[str, dict[str, Any]], tmp_path: Path
    ) -> None:
        unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
        assert run_two("ppo", config_file(stages["ppo"], unbroken)) == [0, 0]
        config = config_file(stages["ppo"], broken)
        assert run_two("ppo", config, number=3, name="SIGKILL") == [PeerLost.exit_code, -9]
        assert run_two("ppo", config) == [0, 0]
        assert_as_unbroken(broken, unbroken)

    def test_accelerate_says_that_it_is_to_be_used(
        self, stages: dict[str, dict[str, Any]], tmp_path: Path
    ) -> None:
        config = config_file(stages["sft"] | {"zero_stage": 0}, tmp_path)
        script = tmp_path / "launched.py"
        script.write_text(LAUNCHED)
        launch = "accelerate.commands.launch --use_deepspeed --zero_stage 1 --num_processes 2"
        launch += " --num_machines 1 --mixed_precision no --dynamo_backend no"
        launch += f" --main_process_port {free_port()}"
        ended = subprocess.run(
            [sys.executable, "-m", *launch.split(), str(script), *command("sft", config)],
            cwd=ROOT, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert_alike(weights_of(tmp_path), weights_of(stages["sft"]["unbroken"]))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """accelerate's environment, as ``--use_deepspeed`` makes it."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    return monkeypatch


def test_accelerate_names_the_stage_itself_or_in_a_file(
    told: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert launched_plan() == {"zero_stage": 2}
    told.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    assert launched_plan() == {"zero_stage": 1}
    file = tmp_path / "ds.json"
    told.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}))
    assert launched_plan() == {"zero_stage": 2}
    file.write_text(json.dumps({"zero_optimization": {"stage": "auto"}}))
    assert launched_plan() == {"zero_stage": 1}
    told.delenv("ACCELERATE_USE_DEEPSPEED")
    assert launched_plan() == {}


@pytest.mark.parametrize(
    ("environment", "zero", "words"),
    [
        ({"ZERO_STAGE": "3"}, None, "--use_fsdp --fsdp_version 2"),
        ({"ZERO_STAGE": "0"}, None, "--multi_gpu"),
        ({"OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, None, "offload_optimizer on cpu"),
        ({}, {"stage": 2, "offload_param": {"device": "nvme"}}, "offload_param on nvme"),
        ({}, [1], "cannot be read"),
    ],
)
def test_what_of_deepspeed_is_not_there_is_refused(
    told: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], zero: Any, words: str
) -> None:
    for name, value in environment.items():
        told.setenv(f"ACCELERATE_DEEPSPEED_{name}", value)
    if zero is not None:
        (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
        told.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "ds.json"))
    config = config_file({"model": "m", "demonstrations": "d"}, tmp_path)
    assert main(command("sft", config)) == ConfigError.exit_code
    assert words in json.loads((tmp_path / "error.json").read_text())["message"]


@pytest.mark.parametrize(("found", "words"), [(None, "not installed"), ("0.9.1", "0.9.1 here")])
def test_without_it_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, found: str | None, words: str
) -> None:
    def version(_: str) -> str:
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr("trainer.launcher.version", version)
    with pytest.raises(ConfigError, match=words) as raised:
        require_deepspeed()
    assert "pip install deepspeed==" in str(raised.value)


def test_it_does_not_go_together_with_shard() -> None:
    with pytest.raises(ConfigError, match="shard does not go together with zero_stage"):
        config_from_plain("sft", {"out": "-", "shard": True, "zero_stage": 1})
