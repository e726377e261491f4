"""Runs of stage ``ppo`` by a known reward, and what their logs say of reward against KL."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.learning.figures import Point, path_of
from bench.learning.policy import Teaching
from bench.learning.units import Result, extent
from bench.measure import stage

LAST = 4  # updates whose mean is what a run reached


@dataclass(frozen=True)
class Episodes(Teaching):
    """The model and the PPO that it gets."""

    seeds: int = extent(3)
    updates: int = 20
    """Rollout batches of a run."""
    batch: int = 64
    """Episodes of each."""
    minibatch: int = 16
    epochs: int = 1
    new_tokens: int = 48
    learning_rate: float = 1e-4
    value_learning_rate: float = 1e-4
    kl_coef: float = 0.02
    max_grad_norm: float = 1.0
    """Of ours; TRL never clips, as 0 does not."""
    block: int = 4
    """Updates whose means are one point of reward against KL."""
    precision: str = "fp32"
    """Of both sides."""


def plain_ppo(sizes: Episodes, policy: Path, prompts: Path, reward: str) -> dict[str, Any]:
    """Settings of stage ``ppo`` without text beside it, held-out prompts or average."""
    return {
        "policy": str(policy),
        "prompts": str(prompts),
        "reward_function": reward,
        "episodes": sizes.updates * sizes.batch,
        "batch": sizes.batch,
        "minibatch": sizes.minibatch,
        "epochs": sizes.epochs,
        "max_new_tokens": sizes.new_tokens,
        "max_prompt_tokens": 128,
        "generate_batch": sizes.batch,
        "learning_rate": sizes.learning_rate,
        "value_learning_rate": sizes.value_learning_rate,
        "kl_coef": sizes.kl_coef,
        "max_grad_norm": sizes.max_grad_norm,
        "against_forgetting": "none",
        "warmup": 0,
        "ema_decay": 0.0,
        "eval_prompts": 0,
        "checkpoint_every": 8 * sizes.epochs * sizes.batch // sizes.minibatch,
        "precision": sizes.precision,
    }


def run_ppo(
    folder: Path, settings: Mapping[str, Any], seed: int, threads: int
) -> tuple[Path, Result]:
    """The model of a run, or of the rest of it, and reward and KL of every update's own answers.

    The run is named for its settings: scripts that ask for the same one, of the same model in the
    same ``folder``, share it.
    """
    whole = dict(settings) | {"seed": seed}
    name = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    done = stage("ppo", folder / f"ppo-{name}", whole | {"threads": threads})
    values = [line["values"] for line in done.lines]
    return done.out / "model", {
        "kl": [line["kl"] for line in values],
        "reward": [line["reward"] for line in values],
        "length": values[-1]["response_length"],
        "end_rate": values[-1]["end_rate"],
    }


def points(result: Mapping[str, Any], block: int) -> list[Point]:
    """A run's path of reward against KL."""
    return path_of(map(Point, result["kl"], result["reward"]), block)


def reached(result: Mapping[str, Any], name: str) -> float:
    """The mean of a figure over the last updates."""
    last = result[name][-LAST:]
    return float(sum(last) / len(last))
