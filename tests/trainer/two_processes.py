"""A stage on two processes that speak gloo, and the comparison of what it made with another run's."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.trainer.children import own_threads, run_children
from tests.trainer.resuming import command
from tests.trainer.snapshots import write_all
from tests.trainer.tiny import build_tiny

STAGE = """
import os, signal, sys
import torch
from trainer import runtime
from trainer.__main__ import leave, main

rank, place, number, name = [sys.argv.pop(1) for _ in range(4)]
owner, attribute = {
    "pass": (torch.Tensor, "backward"),
    "step": (runtime.Optimiser, "step"),
}[place]
real, step, steps = getattr(owner, attribute), runtime.Optimiser.step, 1

def reached(*args, **kwargs):
    global number
    if steps == int(number) and os.environ["RANK"] == rank:
        number = 0
        os.kill(os.getpid(), getattr(signal, name))
    return real(*args, **kwargs)

def counted(*args):
    global steps
    found = reached(*args) if place == "step" else step(*args)
    steps += 1
    return found

setattr(owner, attribute, reached)
runtime.Optimiser.step = counted
leave(main(sys.argv[1:]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def two(script: str, *arguments: str) -> list[tuple[int, str]]:
    """Run a script in two processes that know each other; exit status and words of each."""
    shared = own_threads() | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    each = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [
        (ended.returncode, ended.stdout + ended.stderr)
        for ended in run_children(script, arguments, each)
    ]


def run_two(
    stage: str,
    config: Path,
    *,
    rank: int = 1,
    place: str = "step",
    number: int = 0,
    name: str = "SIGTERM",
) -> list[int]:
    """The stage on two processes; in its ``number``-th step that ``rank`` gets a signal: where its
    gradients are there ("step") or its first backward pass begins ("pass").
    """
    ended = two(STAGE, str(rank), place, str(number), name, *command(stage, config))
    for _, words in ended:
        print(words)
    return [status for status, _ in ended]


PPO = {
    "episodes": 21,
    "batch": 7,  # minibatches of 3, 3 and 1: one process has no row of the last
    "minibatch": 3,
    "max_new_tokens": 8,
    "ptx_per_episode": 0.5,
    "ptx_tokens": 12,
    "warmup": 2,
    "freeze_layers": 1,
    "ema_decay": 0.5,
}


def settings_of_stages(root: Path) -> dict[str, dict[str, Any]]:
    """Settings of the stages, without dropout of attention weights, as each is to be shared out over processes."""
    data = {name: str(path) for name, path in write_all(root / "data").items()}
    tiny = str(build_tiny(root / "tiny", "llama"))
    shared = {
        "learning_rate": 1e-3, "adam_eps": 1e-5, "seed": 4, "precision": "fp32", "threads": 1,
        "checkpoint_every": 1, "micro_tokens": 64, "shard": True,
    }  # fmt: skip
    demonstrations = {"demonstrations": data["demonstrations"]}
    pretrain = {
        **shared, "text": data["pretrain_text"], "max_tokens": 24, "batch": 9, "max_steps": 4,
        "valid_every": 2,
    }  # fmt: skip
    sft = {**shared, **demonstrations, "model": tiny, "batch": 8, "epochs": 2}
    sft["residual_dropout"] = 0.2
    reward = {**shared, **demonstrations, "model": tiny, "comparisons": data["comparisons"]}
    ppo = {
        **shared, **PPO, "policy": str(root / "sft" / "model"),
        "reward": str(root / "reward" / "model"), "prompts": data["prompts"],
        "pretrain_text": data["pretrain_text"],
    }  # fmt: skip
    bert = build_tiny(root / "bert", "bert")
    settings = json.loads((bert / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0}
    (bert / "config.json").write_text(json.dumps(settings))
    found: dict[str, dict[str, Any]] = {
        "pretrain": {**pretrain, "model": tiny},
        "pretrain masked": {**pretrain, "model": str(bert), "objective": "masked"},
        "sft": sft | {"gradient_checkpointing": True},
        "sft bf16": sft | {"precision": "bf16", "freeze_layers": 1, "pack": True},
        "reward": {**reward, "batch": 5, "freeze_layers": 1},
        "ppo": {**ppo, "whiten_rewards": True, "kl_control": "adaptive", "keep_best": True},
        "ppo value alone": {
            **ppo,
            "value_warmup": 1,
            "ema_decay": 0.0,
            "freeze_layers": 0,
        },
        "ppo known reward": {
            **{name: value for name, value in ppo.items() if name != "reward"},
            "reward_function": "concise",
        },
        "sft judged": {**sft, "reward": str(root / "reward" / "model"), "eval_new_tokens": 8},
    }
    return found


def newest(out: Path) -> dict[str, Any]:
    """The newest checkpoint, without what belongs to one process or to the clock."""
    path = sorted((out / "checkpoints").glob("*.pt"))[-1]
    state: dict[str, Any] = torch.load(path, weights_only=True)
    for name in ("meter", "random_of_others"):
        state.pop(name, None)
    return {"path": path.name, **state}


def assert_alike(a: Any, b: Any, where: str = "") -> None:
    """Equal but for the rounding of sums."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for name in a:
            assert_alike(a[name], b[name], f"{where}.{name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_alike(*pair, f"{where}[{i}]")
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda m: f"{where}: {m}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=1e-5, rel=1e-4, nan_ok=True), where
    else:
        assert a == b, where


def weights_of(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model" / "model.safetensors")


def contents(folder: Path, names: Sequence[str]) -> dict[str, str]:
    paths = [path for name in names for path in sorted(folder.rglob(name))]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}
