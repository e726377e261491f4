"""A run that was killed anywhere goes on and ends in exactly the weights of an unbroken one.

Each stage runs through its command line. The signals are real, sent by the process to itself at
an exact place; what is killed is a child, what goes on or is asked to stop runs in this process.
"""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.children import ROOT, own_threads, run_children
from tests.trainer.resuming import (
    assert_as_unbroken,
    assert_goes_on_after_a_kill,
    carried_out,
    command,
    config_file,
)
from tests.trainer.snapshots import write_all
from tests.trainer.tiny import build_tiny
from trainer import (
    base,
    best_of_n,
    draw_text,
    ppo,
    pretrain,
    reward,
    rollout,
    sample,
    score,
    sft,
)
from trainer.__main__ import main
from trainer.errors import ConfigError, Stopped
from trainer.runtime import Optimiser
from trainer.stage_io import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of the stages, each of four optimiser steps, and an unbroken run of each."""
    root = tmp_path_factory.mktemp("resume")
    data = {name: str(path) for name, path in write_all(root / "data").items()}
    tiny = str(build_tiny(root / "tiny", "gpt2"))  # has dropout: the random state matters
    shared = {
        "learning_rate": 1e-3, "seed": 4, "batch": 6, "threads": 1, "checkpoint_every": 2,
        "micro_tokens": 64,
    }  # fmt: skip
    demonstrations = {"demonstrations": data["demonstrations"]}
    pretrain = {
        **shared,
        "text": data["pretrain_text"],
        "max_tokens": 24,
        "batch": 20,
        "epochs": 4,
        "max_steps": 4,
        "valid_every": 3,
        "freeze_layers": 1,
    }
    found: dict[str, dict[str, Any]] = {
        "pretrain": {**pretrain, "model": tiny},
        "pretrain masked": {
            **pretrain,
            "model": str(build_tiny(root / "bert", "bert")),
            "objective": "masked",
            "fresh": True,
            "freeze_layers": 0,
        },
        "sft": {**shared, **demonstrations, "model": tiny, "epochs": 2, "residual_dropout": 0.2},
        "reward": {
            **shared,
            **demonstrations,
            "model": tiny,
            "comparisons": data["comparisons"],
            "epochs": 2,
            "freeze_layers": 1,
        },
        "ppo": {
            **shared,
            "policy": str(root / "sft" / "model"),
            "reward": str(root / "reward" / "model"),
            "prompts": data["prompts"],
            "pretrain_text": data["pretrain_text"],
            "episodes": 16,
            "batch": 8,
            "minibatch": 4,
            "max_new_tokens": 8,
            "ptx_per_episode": 0.5,
            "ptx_tokens": 12,
            "warmup": 2,
            "freeze_layers": 1,
            "ema_decay": 0.5,
        },
        "sample": {"model": tiny, "prompts": data["prompts"], "k": 2, "max_new_tokens": 4},
    }
    return carried_out(found, root)


@pytest.mark.parametrize(
    ("stage", "place", "number"),
    [
        ("pretrain", "step", 3),
        ("pretrain masked", "step", 3),
        ("sft", "step", 3),
        ("reward", "step", 3),
        ("ppo", "step", 3),
        ("ppo", "rename", 1),
    ],
    ids=[
        "pretrain",
        "pretrain masked",
        "sft",
        "reward",
        "ppo",
        "ppo while its checkpoint is put in place",
    ],
)
def test_two_steps_a_kill_and_two_steps_are_four_steps(
    stages: dict[str, dict[str, Any]], tmp_path: Path, stage: str, place: str, number: int
) -> None:
    assert_goes_on_after_a_kill(stages[stage], stage, tmp_path / stage, place, number)


@pytest.mark.parametrize(
    ("stage", "place", "number"),
    [
        ("pretrain masked", "step", 1),
        ("sft", "step", 1),
        ("ppo", "step", 3),
        ("ppo", "generate", 3),
    ],
)
def test_a_run_asked_to_stop_leaves_a_checkpoint_and_goes_on_from_there(
    stages: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    place: str,
    number: int,
) -> None:
    """For PPO also inside a rollout batch: between two of its steps, and while it samples."""
    owner, name = {"step": (Optimiser, "step"), "generate": (rollout, "generate")}[place]
    real, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    out = tmp_path / stage
    config = config_file(stages[stage], out)
    assert main(command(stage, config)) == Stopped.exit_code
    assert list((out / "checkpoints").glob("*.pt"))
    assert json.loads((out / "error.json").read_text())["code"] == Stopped.exit_code
    assert main(command(stage, config)) == 0
    assert_as_unbroken(out, stages[stage]["unbroken"])


@pytest.mark.parametrize("stage", ["pretrain", "pretrain masked", "sft", "reward", "ppo"])
def test_a_run_asked_to_stop_inside_a_step_does_that_step_again(
    stages: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A step of many micro-batches takes minutes on a small machine: it is not waited for. SFT
    has dropout, whose noise is drawn again.
    """
    done, passes = 0, 0
    real_step, real_backward = Optimiser.step, torch.Tensor.backward

    def step(*args: Any) -> Any:
        nonlocal done
        done += 1
        return real_step(*args)

    def backward(*args: Any, **kwargs: Any) -> None:
        nonlocal passes
        passes += done == 1
        if passes == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real_backward(*args, **kwargs)

    monkeypatch.setattr(Optimiser, "step", step)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    out = tmp_path / stage
    config = config_file(stages[stage], out)
    assert main(command(stage, config)) == Stopped.exit_code
    assert done == 1
    assert passes == (2 if stage == "ppo" else 1), "one of the value model, one of the policy"
    (checkpoint,) = (out / "checkpoints").glob("*.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 1
    assert main(command(stage, config)) == 0
    assert passes > 3, "the step has several micro-batches"
    assert_as_unbroken(out, stages[stage]["unbroken"])


@pytest.mark.parametrize(
    ("stage", "owner", "name"),
    [
        ("pretrain", pretrain, "held_out_loss"),
        ("reward", reward, "score_pairs"),
        ("reward", reward, "mean_score"),
    ],
)
def test_a_run_asked_to_stop_while_it_measures_measures_again(
    stages: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    owner: Any,
    name: str,
) -> None:
    with monkeypatch.context() as patched:
        real = getattr(owner, name)

        def asked(*args: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            real(*args)
            raise AssertionError("It measured to the end.")

        patched.setattr(owner, name, asked)
        out = tmp_path / stage
        config = config_file(stages[stage], out)
        assert main(command(stage, config)) == Stopped.exit_code
    assert main(command(stage, config)) == 0
    assert_as_unbroken(out, stages[stage]["unbroken"])


@pytest.mark.parametrize(
    ("stage", "owner", "name"),
    [
        ("base", base, "_load"),
        ("text", draw_text, "load_generator"),
        ("sample", sample, "load_sampler"),
        ("best", best_of_n, "load_judge"),
        ("score", score, "load_judge"),
        ("pretrain", pretrain, "load_text"),
        ("sft", sft, "load_mixture"),
        ("reward", reward, "load"),
        ("ppo", ppo, "Actors"),
    ],
)
def test_a_run_asked_to_stop_before_there_is_anything_to_write_ends_where_it_is(
    stages: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    owner: Any,
    name: str,
) -> None:
    """Models and data may take minutes to read."""

    def asked(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("It went on.")

    monkeypatch.setattr(owner, name, asked)
    drawing = stages["sample"]
    rewards = stages["ppo"]["reward"]
    others: dict[str, dict[str, Any]] = {
        "base": {"source": drawing["model"]},
        "text": {"model": drawing["model"]},
        "best": drawing | {"reward": rewards},
        "score": {
            "model": drawing["model"],
            "prompts": drawing["prompts"],
            "samples": str(drawing["unbroken"]),
            "rewards": [rewards],
        },
    }
    out = tmp_path / stage
    config = config_file(others.get(stage, stages.get(stage, {})), out)
    assert main(command(stage, config)) == Stopped.exit_code
    assert json.loads((out / "error.json").read_text())["code"] == Stopped.exit_code
    assert not (out / "manifest.json").exists()


def test_a_stage_starts_without_scipy() -> None:
    """It takes a second to load, and transformers has it for what no stage does."""
    script = "import sys; sys.exit('scipy' in sys.modules or 'transformers' not in sys.modules)"
    (ended,) = run_children(script, [], [own_threads()])
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_stage_starts_without_what_only_takes_memory() -> None:
    """Torch's compiler and accelerate load these where they are installed, 20 MB."""
    assert find_spec("redis") and find_spec("rich")
    script = (
        "import contextlib, runpy, sys\n"
        "sys.argv = ['trainer', 'sft', '--config', '/nowhere.json']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    runpy.run_module('trainer', run_name='__main__')\n"
        "import accelerate, torch._inductor.remote_cache\n"
        "sys.exit(any(sys.modules.get(name) for name in ('redis', 'rich')))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "/nowhere.json" in ended.stderr


def test_a_stop_that_a_library_takes_for_its_own_failure_is_a_stop(tmp_path: Path) -> None:
    """As where the compiler is tried, whatever it raises."""

    def ended() -> None:
        with open_run(tmp_path) as run:
            run.stop_at_once()
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception:
                raise ConfigError("torch.compile cannot make code") from None

    with pytest.raises(Stopped):
        ended()
    assert json.loads((tmp_path / "error.json").read_text())["code"] == Stopped.exit_code
