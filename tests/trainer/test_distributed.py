"""A run on two processes is the run on one: same samples, losses, weights, checkpoints and files.

The processes are real and speak gloo; one test has a launcher start them. Signals go to one only.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.children import ROOT
from tests.trainer.resuming import (
    assert_as_unbroken,
    carried_out,
    command,
    config_file,
    figures,
)
from tests.trainer.snapshots import comparison_row, write_all, write_snapshot
from tests.trainer.tiny import build_tiny
from tests.trainer.two_processes import (
    PPO,
    assert_alike,
    contents,
    free_port,
    newest,
    run_two,
    two,
    weights_of,
)
from trainer.__main__ import main
from trainer.distributed import dealt
from trainer.errors import ConfigError, FolderBusy, PeerLost, Stopped
from trainer.records import read_manifest
from trainer.stage_io import open_run

COLLECTIVES = """
import sys, torch
from torch import nn
from trainer import distributed
from trainer.errors import DataError
from trainer.runtime import sum_gradients

with distributed.joined():
    me = distributed.rank()
    assert distributed.gathered(me) == [0, 1]
    assert distributed.from_main(me) == 0 and distributed.total(me + 0.5) == 2.0
    assert [distributed.any_of(me == 1), distributed.any_of(False)] == [True, False]
    assert distributed.whole([["b"], ["c", "a"]][me], [[1], [2, 0]][me]) == ["a", "b", "c"]
    assert distributed.own([5, 9, 7]) == [[1], [0, 2]][me]
    both, mine, none = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    both.grad = torch.full((2, 2), 1.0 + me)
    if me == 1:
        mine.grad = torch.eye(2)
    sum_gradients([both, mine, none])
    assert both.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert mine.grad.tolist() == [[1.0, 0.0], [0.0, 1.0]] and none.grad is None
    try:
        with distributed.together():
            if me == 1:
                raise DataError("line 7 is torn")
        raise SystemExit("nothing was raised")
    except DataError as error:
        assert str(error) == "line 7 is torn"
assert distributed.size() == 1
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of the stages, without dropout of attention weights, and a run of each on one process."""
    root = tmp_path_factory.mktemp("alone")
    data = {name: str(path) for name, path in write_all(root / "data").items()}
    tiny = str(build_tiny(root / "tiny", "llama"))
    rankings = [comparison_row(i, labeler_group="ab"[i // 8]) for i in range(16)]
    grouped = write_snapshot(root / "data" / "grouped", "comparisons", rankings)
    shared = {
        "learning_rate": 1e-3, "adam_eps": 1e-5, "seed": 4, "precision": "fp32", "threads": 1,
        "checkpoint_every": 1, "micro_tokens": 64,
    }  # fmt: skip
    demonstrations = {"demonstrations": data["demonstrations"]}
    ppo = {
        **shared, **PPO, "policy": str(root / "sft" / "model"),
        "reward": str(root / "reward" / "model"), "prompts": data["prompts"],
        "pretrain_text": data["pretrain_text"],
    }  # fmt: skip
    drawing = {
        "model": tiny, "prompts": data["prompts"], "k": 3, "max_new_tokens": 8, "chunk": 6,
        "precision": "fp32", "threads": 1,
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {
        "pretrain": {
            **shared,
            "model": tiny,
            "text": data["pretrain_text"],
            "max_tokens": 24,
            "batch": 9,
            "max_steps": 4,
            "valid_every": 2,
        },
        "sft": {
            **shared, **demonstrations, "model": tiny, "batch": 8, "epochs": 2,
            "residual_dropout": 0.2,
        },
        "sft packed": {
            **shared, **demonstrations, "model": tiny, "batch": 11, "epochs": 2, "pack": True,
            "residual_dropout": 0.2,
        },
        "reward": {
            **shared,
            **demonstrations,
            "model": tiny,
            "comparisons": str(grouped),
            "batch": 5,
            "epochs": 2,
            "folds_by": "labeler_group",
        },
        "sft judged": {
            **shared,
            **demonstrations,
            "model": tiny,
            "batch": 8,
            "epochs": 2,
            "reward": str(root / "reward" / "model"),
            "eval_new_tokens": 8,
        },
        "ppo": {**ppo, "whiten_rewards": True, "kl_control": "adaptive", "keep_best": True},
        "ppo null space": {
            **ppo,
            "against_forgetting": "null_space",
            "null_space_gradients": 3,
            "null_space_sequences": 3,
        },
        "sample": drawing,
        "best": {**drawing, "reward": str(root / "reward" / "model")},
    }  # fmt: skip
    return carried_out(found, root)


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of SFT with dropout, and an unbroken run of it on two processes."""
    root = tmp_path_factory.mktemp("dropout")
    settings: dict[str, Any] = {
        "model": str(build_tiny(root / "tiny", "gpt2")),
        "demonstrations": str(write_all(root / "data")["demonstrations"]),
        "residual_dropout": 0.2,
        "learning_rate": 1e-3,
        "seed": 4,
        "batch": 6,
        "epochs": 2,
        "threads": 1,
        "checkpoint_every": 2,
    }
    assert run_two("sft", config_file(settings, root / "sft")) == [0, 0]
    return settings | {"unbroken": root / "sft"}


# ---- the parts ------------------------------------------------------------------------------------


def test_rows_are_dealt_evenly_and_each_once() -> None:
    assert dealt([5, 9, 7, 1, 3], 2) == [[1, 3, 4], [0, 2]]  # 9 | 7 5 | 3 1
    assert dealt([4], 3) == [[0], [], []]
    assert dealt([2, 8, 5], 1) == [[0, 1, 2]]
    assert dealt([], 2) == [[], []]


@pytest.mark.slow
def test_two_processes_add_up_and_agree() -> None:
    for status, words in two(COLLECTIVES):
        assert status == 0, words


# ---- a whole stage ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["pretrain", "sft", "sft packed", "sft judged", "reward", "ppo", "ppo null space"]
)
def test_two_processes_train_what_one_trains(
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
    clock = {"seconds", "tokens_per_second", "episodes_per_second"}
    said = [
        {name: value for name, value in manifest.metrics.items() if name not in clock}
        for manifest in (read_manifest(tmp_path, verify=True), read_manifest(alone))
    ]
    assert_alike(*said)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sample", "best"])
def test_two_processes_draw_what_one_draws(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    assert run_two(stage, config_file(stages[stage], tmp_path)) == [0, 0]
    drawn = contents(tmp_path, ["rows.jsonl"])
    assert drawn
    assert drawn == contents(stages[stage]["unbroken"], ["rows.jsonl"])


@pytest.mark.slow
def test_the_launcher_starts_them(stages: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    config = config_file(stages["sample"], tmp_path)
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    launch += f" --mixed_precision no --dynamo_backend no --main_process_port {free_port()}"
    ended = subprocess.run(
        [sys.executable, "-m", *launch.split(), "-m", "trainer", *command("sample", config)],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path, ["rows.jsonl"]) == contents(
        stages["sample"]["unbroken"], ["rows.jsonl"]
    )


@pytest.mark.slow
def test_launchers_on_two_hosts_train_what_one_process_trains(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Each launcher starts one process and knows of the other by the first one's address alone."""
    config = config_file(stages["sft"], tmp_path)
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 2"
    launch += " --mixed_precision no --dynamo_backend no --main_process_ip 127.0.0.1"
    launch += f" --main_process_port {free_port()}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", *launch.split(), "--machine_rank", str(rank), "-m", "trainer",
             *command("sft", config)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [host.communicate(timeout=200)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert_alike(figures(tmp_path), figures(stages["sft"]["unbroken"]))
    assert_alike(weights_of(tmp_path), weights_of(stages["sft"]["unbroken"]))


# ---- an end before the end ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_one_asked_to_stop_stops_both_and_one_process_goes_on(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    """PPO inside a rollout batch, whose samples are those that one process draws."""
    config = config_file(stages[stage], tmp_path)
    assert run_two(stage, config, number=2) == [Stopped.exit_code] * 2
    assert json.loads((tmp_path / "error.json").read_text())["code"] == Stopped.exit_code
    assert newest(tmp_path)["step"] == 2
    assert bool(newest(tmp_path).get("in_work")) == (stage == "ppo")
    assert main(command(stage, config)) == 0
    alone = stages[stage]["unbroken"]
    assert_alike(figures(tmp_path), figures(alone))
    assert_alike(weights_of(tmp_path), weights_of(alone))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_broken_run_goes_on_with_the_noise_of_each_process(
    with_dropout: dict[str, Any], tmp_path: Path, name: str
) -> None:
    config = config_file(with_dropout, tmp_path)
    stopped, lost = Stopped.exit_code, PeerLost.exit_code
    expected = [stopped, stopped] if name == "SIGTERM" else [lost, -signal.SIGKILL]
    assert run_two("sft", config, number=3, name=name) == expected
    said = json.loads((tmp_path / "error.json").read_text())
    assert said["code"] == expected[0]
    if name == "SIGKILL":
        assert "Another process of this run ended" in said["message"]
    assert run_two("sft", config) == [0, 0]
    assert_as_unbroken(tmp_path, with_dropout["unbroken"])


@pytest.mark.slow
def test_what_the_first_process_finds_wrong_ends_both(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = config_file(stages["sft"], tmp_path)
    with open_run(tmp_path):
        assert run_two("sft", config) == [FolderBusy.exit_code] * 2
    config = config_file(stages["sft"] | {"batch": 0}, tmp_path)
    assert run_two("sft", config) == [ConfigError.exit_code] * 2


@pytest.mark.slow
def test_the_launcher_asked_to_stop_leaves_a_checkpoint(
    stages: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    endless = stages["sft"] | {"epochs": 100_000, "checkpoint_every": 10**6}
    endless["eval_every"] = 10**6  # asked during a look, it saves a step that is not logged yet
    config = config_file(endless, tmp_path)
    torchrun = f"torch.distributed.run --nproc_per_node 2 --master_port {free_port()} -m trainer"
    started = subprocess.Popen(
        [sys.executable, "-m", *torchrun.split(), *command("sft", config)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    started.terminate()
    started.wait(timeout=40)
    assert json.loads((tmp_path / "error.json").read_text())["code"] == Stopped.exit_code
    last = [line["step"] for line in figures(tmp_path)][-1]
    assert newest(tmp_path)["step"] == last
