"""The learning scripts run from end to end, small, and go on where they were."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench.learning.episodes import Episodes, plain_ppo, reached
from bench.learning.known_reward import write_value_model
from tests.trainer.children import MODULE, own_threads, run_children
from tests.trainer.public_data import write_public_data
from trainer.actors import Actors
from trainer.config import config_from_plain

SMALL: dict[str, list[str]] = {
    "reward": ["epochs=1", "freeze_layers=1", "max_tokens=200"],
    "known_reward": ["peer=false", 'rewards=["concise", "harmless"]', "toxic_prompts=6"],
    "tax": [],
    "epochs": [],
}


def run(script: str, data: Path, work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [f"bench.learning.{script}", "--data", str(data)]
    command += ["--json", str(work / "found.json"), "--work", str(work / "work")]
    command += ["--results", str(work / "kept")]
    command += ["--budget", "small", "--threads", "1", *options]
    (ended,) = run_children(MODULE, command, [own_threads()])
    return ended


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SMALL)
def test_a_script_runs_and_goes_on_where_it_was(
    script: str, tiny_llama: Path, tmp_path: Path
) -> None:
    data = write_public_data(tmp_path / "data")
    options = ["--model", str(tiny_llama), *(["--set", *SMALL[script]] if SMALL[script] else [])]
    done = run(script, data, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    assert found["script"] == script
    CHECKS[script](found)
    folder = tmp_path / "kept" / f"{script}-small"
    units = [path for path in folder.glob("*.json") if path.name != "settings.json"]
    last = max(units, key=lambda path: path.stat().st_mtime)
    last.unlink()
    again = run(script, data, tmp_path, *options)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": begun") == 1 and f"{last.stem}: begun" in again.stderr
    assert again.stderr.count("there already") >= len(units) - 1
    told = run(script, data, tmp_path, "--report")
    assert told.stdout.strip() == again.stdout.strip()
    assert told.stderr == ""


def check_reward(found: dict[str, Any]) -> None:
    hh = found["hh"]
    assert (hh["pairs"], hh["apart"]) == (30, 0)
    assert hh["shorter reply"]["accuracy"]["n"] == hh["bag of words"]["accuracy"]["n"] == 30
    assert hh["shorter reply"]["accuracy"]["value"] > 0.8  # better answers have fewer words
    assert hh["reward model"]["accuracy"]["n"] == 10
    assert [row["reward model"]["train"] for row in found["curve"].values()] == [8, 20]
    assert [row["train"] for row in found["curve"].values()] == [8, 20]
    ranked = found["open_assistant"]
    assert ranked["kwise"]["accuracy"]["n"] == ranked["pairs"]["accuracy"]["n"] == 4 * 3
    assert ranked["pairs"]["train"] == 3 * ranked["kwise"]["train"] == 24
    assert ranked["pairs"]["steps"] == ranked["kwise"]["steps"] == [1]


def check_known_reward(found: dict[str, Any]) -> None:
    assert list(found["rewards"]) == ["concise", "harmless"]
    for one in found["rewards"].values():
        assert [point["n"] for point in one["best_of_n"]] == [1, 2, 4]
        rewards = [point["reward"] for point in one["best_of_n"]]
        assert rewards == sorted(rewards)
        assert len(one["paths"]["ppo"][0]) == 2
        assert one["equal_kl"] == []
    assert found["rewards"]["harmless"]["reached"]["ppo"]["reward"]["value"] < 0


def check_tax(found: dict[str, Any]) -> None:
    assert list(found["arms"]) == ["ppo", "ppo-ptx-1", "null-space"]
    assert found["before"]["blimp"]["n"] == 2
    for arm in found["arms"].values():
        assert arm["nats"]["value"] == arm["change"][0]["nats"]["value"] != 0


def check_epochs(found: dict[str, Any]) -> None:
    once, twice = found["ppo"]["1"], found["ppo"]["2"]
    assert 0 < once["approx_kl"] < twice["approx_kl"], "of the same answers, further on"
    assert [len(found["reward"][name]) for name in ("train_accuracy", "log_loss")] == [2, 2]
    assert found["reward"]["train"] == 24 and found["reward"]["held_out"] <= 6


CHECKS = {
    "reward": check_reward,
    "known_reward": check_known_reward,
    "tax": check_tax,
    "epochs": check_epochs,
}


def test_the_peer_starts_from_our_value_model(tiny_llama: Path, tmp_path: Path) -> None:
    plain = plain_ppo(Episodes(), tiny_llama, tmp_path, "concise")
    actors = Actors(config_from_plain("ppo", plain | {"out": str(tmp_path), "seed": 3}))
    folder = write_value_model(tiny_llama, tmp_path / "value", 3)
    head = load_file(folder / "model.safetensors")["score.weight"]
    assert torch.equal(head, actors.value.head.weight.detach())


def test_a_run_reached_the_mean_of_its_last_updates() -> None:
    assert reached({"kl": [9.0, 9.0, 1.0, 2.0, 3.0, 6.0]}, "kl") == 3.0


def test_a_script_says_what_is_missing(tmp_path: Path) -> None:
    done = run("tax", tmp_path / "nowhere", tmp_path)
    assert done.returncode == 1
    assert "name that of the public data sets by --data" in done.stderr
    helped = run("reward", tmp_path, tmp_path, "--help")
    assert "hours of two cores" in helped.stdout
