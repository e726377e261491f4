"""Weights, gradients and optimiser state shared out over two processes (FSDP2 over gloo): the run is
that of one process which holds all of them, and its checkpoints go on either way.
"""

import json
import subprocess
import sys
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
from trainer.errors import ConfigError, PeerLost, Stopped
from trainer.records import read_manifest

SHARES = """
import sys, torch
from trainer import distributed
from trainer.config import SFTConfig
from trainer.idle import idle_pass
from trainer.models import LanguageModel, equip, load_weights, trainable
from trainer.runtime import Optimiser
from trainer.sampler import sampler_of
from trainer.sharding import copied, held
from trainer.padded import pad

folder, arch = sys.argv[1:]
cpu = torch.device("cpu")
config = SFTConfig(
    out="-", shard=True, gradient_checkpointing=arch == "llama", freeze_layers=int(arch == "gpt2")
)

def loaded():
    return LanguageModel.load(folder, config.freeze_layers, "fp32", cpu)

def loss(model, row):
    batch = pad([row], 0, cpu)
    response = batch.mask.clone()
    response[:, 0] = False
    return model.logprobs(batch, response, lower=model.stack.lower(batch)).sum()

with distributed.joined():
    plain, model = loaded(), loaded()
    equip(model, config)
    whole, shares = trainable(plain.model), trainable(model.model)
    rows = [[5, 6, 7, 8, 9], [3, 4, 5], [9, 8, 7, 6]]
    mine = rows[:2] if distributed.rank() == 0 else rows[2:]
    for row in rows:
        loss(plain, row).backward()
    for row in mine:
        loss(model, row).backward()
    if len(mine) == 1:
        idle_pass(model)()

    # each holds its share of the weights, of the gradients, and of what Adam keeps
    optimiser = Optimiser([(shares.values(), 1e-2)], config)
    counts = [sum(p.to_local().numel() for p in shares.values())]
    counts += [sum(p.grad.to_local().numel() for p in shares.values())]
    for name, p in shares.items():
        torch.testing.assert_close(p.grad.full_tensor(), whole[name].grad, rtol=1e-4, atol=1e-4)
    (norm,) = optimiser.step(1.0)
    counts += [
        sum(kept["exp_avg_sq"].to_local().numel() for kept in optimiser.adam.state.values())
    ]
    every = distributed.gathered(counts)
    total = sum(p.numel() for p in whole.values())
    assert [a + b for a, b in zip(*every)] == [total] * 3, (every, total)
    assert max(map(max, every)) < 0.6 * total, (every, total)

    for p in whole.values():
        p.grad /= 2  # both processes have the whole, and add up
    (of_all,) = Optimiser([(whole.values(), 1e-2)], config).step(1.0)
    assert abs(norm - of_all) < 1e-3 * of_all, (norm, of_all)
    # of two kinds of copies the one is whole in the first process, the other each's own
    copies, before = copied(shares), held(shares)
    if distributed.is_main():
        for name, tensor in copies.items():
            torch.testing.assert_close(tensor, whole[name].detach(), rtol=1e-4, atol=1e-5)
    else:
        assert not any(tensor.numel() for tensor in copies.values())
    sampler = sampler_of(model)
    ids = torch.tensor([rows[0]])
    with torch.no_grad():
        torch.testing.assert_close(
            sampler(input_ids=ids).logits, plain.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )

    # nothing gathered outlives a change of weights
    with torch.no_grad():
        first = float(loss(model, rows[0]))
        load_weights(model.model, {name: p.detach() * 0 for name, p in whole.items()})
        zeroed = float(loss(model, rows[0]))
        load_weights(model.model, before)
        assert zeroed != first and float(loss(model, rows[0])) == first
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of the stages, without dropout of attention weights, and a run of each on one process, which holds all."""
    root = tmp_path_factory.mktemp("whole")
    return carried_out(settings_of_stages(root), root)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_each_process_holds_its_share_and_the_sum_of_the_gradients(
    tmp_path: Path, arch: Any
) -> None:
    ended = two(SHARES, str(build_tiny(tmp_path, arch)), arch)
    assert [status for status, _ in ended] == [0, 0], "\n".join(words for _, words in ended)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        "pretrain",
        "pretrain masked",
        "sft",
        "sft bf16",
        "sft judged",
        "reward",
        "ppo",
        "ppo value alone",
        "ppo known reward",
    ],
)
def test_two_that_share_the_weights_train_what_one_trains(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    alone = stages[stage]["unbroken"]
    assert run_two(stage, config_file(stages[stage], tmp_path)) == [0, 0]
    assert_alike(figures(tmp_path), figures(alone))
    both, one = newest(tmp_path), newest(alone)
    if stage == "reward":  # draws from no global noise, so seeds none
        del both["random"], one["random"]
    assert_alike(both, one)
    assert_alike(weights_of(tmp_path), weights_of(alone))
    assert read_manifest(tmp_path).settings == read_manifest(alone).settings


@pytest.mark.slow
def test_in_bf16_two_that_share_draw_and_train_what_two_that_do_not(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """One process may draw another token: bf16 products are rounded by the shape of the batch.

    Steps are small: sums of gradients in another order make some weights round to another bf16
    number, and with large steps that grows beyond the rounding of sums in three rollout batches.
    """
    rates = {"learning_rate": 1e-5, "value_learning_rate": 1e-5}
    for name, shard in (("shared", True), ("whole", False)):
        settings = stages["ppo"] | rates | {"precision": "bf16", "shard": shard}
        assert run_two("ppo", config_file(settings, tmp_path / name)) == [0, 0]
    shared, whole = tmp_path / "shared", tmp_path / "whole"
    assert_alike(figures(shared), figures(whole))
    assert_alike(weights_of(shared), weights_of(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "first"),
    [("sft", "shared out"), ("reward", "whole"), ("ppo", "shared out"), ("ppo", "whole")],
)
def test_a_checkpoint_goes_on_with_and_without_sharing(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str, first: str
) -> None:
    shared, alone = stages[stage], stages[stage]["unbroken"]
    before, after = (shared, shared | {"shard": False})[:: 1 if first == "shared out" else -1]
    assert run_two(stage, config_file(before, tmp_path), number=2) == [Stopped.exit_code] * 2
    assert newest(tmp_path)["step"] == 2
    assert run_two(stage, config_file(after, tmp_path)) == [0, 0]
    assert_alike(figures(tmp_path), figures(alone))
    assert_alike(weights_of(tmp_path), weights_of(alone))


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_shared(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = config_file(stages["sft"], tmp_path)
    assert run_two("sft", config, number=2) == [Stopped.exit_code] * 2
    assert main(command("sft", config)) == 0
    assert_alike(weights_of(tmp_path), weights_of(stages["sft"]["unbroken"]))


@pytest.mark.slow
def test_a_killed_run_ends_in_the_weights_of_an_unbroken_one(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert run_two("sft", config_file(stages["sft"], unbroken)) == [0, 0]
    config = config_file(stages["sft"], broken)
    assert run_two("sft", config, number=3, name="SIGKILL") == [PeerLost.exit_code, -9]
    assert "Another process" in json.loads((broken / "error.json").read_text())["message"]
    assert run_two("sft", config) == [0, 0]
    assert_as_unbroken(broken, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_one_asked_to_stop_inside_a_step_stops_both_inside_it(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    """A step may take minutes; though passes are made in step, none is waited for but the one begun."""
    config = config_file(stages[stage], tmp_path)
    assert run_two(stage, config, place="pass", number=2) == [Stopped.exit_code] * 2
    assert newest(tmp_path)["step"] == 1
    assert main(command(stage, config)) == 0
    assert_alike(weights_of(tmp_path), weights_of(stages[stage]["unbroken"]))


def launched(config: Path) -> subprocess.CompletedProcess[str]:
    """Stage ``sft`` on two processes, which accelerate is told to share the weights out over."""
    launch = "accelerate.commands.launch --use_fsdp --fsdp_version 2 --num_processes 2"
    launch += " --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch += f" --main_process_port {free_port()}"
    return subprocess.run(
        [sys.executable, "-m", *launch.split(), "-m", "trainer", *command("sft", config)],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
def test_accelerate_says_that_weights_are_to_be_shared(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    ended = launched(config_file(stages["sft"] | {"shard": False, "compile": True}, tmp_path))
    assert ended.returncode != 0
    said = json.loads((tmp_path / "error.json").read_text())
    assert said["code"] == ConfigError.exit_code
    assert "shard does not go together with compile" in said["message"]


@pytest.mark.slow
def test_two_that_accelerate_has_share_the_weights_train_what_one_trains(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    ended = launched(config_file(stages["sft"] | {"shard": False}, tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert_alike(weights_of(tmp_path), weights_of(stages["sft"]["unbroken"]))


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("sft", {"lora_rank": 4}),
        ("reward", {"compile": True}),
        ("ppo", {"generator": "vllm"}),
    ],
)
def test_what_does_not_go_together_is_refused(stage: str, setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=f"shard does not go together with {name}"):
        config_from_plain(stage, {"out": "-", "shard": True, **setting})
