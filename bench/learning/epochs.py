"""What more passes over the same data do: to PPO's first rollout batch, and to a reward model.

The 13.8M model of the benchmarks is taught a little. PPO by the known reward `concise` then takes
its first rollout batch, of the same answers each time, in 1, 2, 3 and 4 epochs: mean approximate KL
and clip fraction of all steps up to there, which N+ (arXiv 2403.17031) reports as 0.0029, 0.0056 and
0.0081, and 0.025, 0.051 and 0.073, after epochs 2 to 4. A reward model is trained on HH-harmless
pairs in two epochs and measured after each: the paper (C.2) stops after the first, as it
overfits. About 20 minutes of two cores at the full budget, 1 with --budget small; ten more where
known_reward has not taught the model yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.learning.command import arguments, publish, sizes
from bench.learning.episodes import Episodes, plain_ppo
from bench.learning.pairs import folds, read_hh, split, write_rankings
from bench.learning.policy import Cast, taught, teaching_of
from bench.learning.units import Result, Unit, extent, run_units, settings_of_units
from bench.measure import stage


@dataclass(frozen=True)
class Sizes(Episodes):
    """What is passed over how often."""

    updates: int = 1
    learning_rate: float = 1e-5
    value_learning_rate: float = 1e-5
    ppo_epochs: tuple[int, ...] = extent((1, 2, 3, 4))
    reward_epochs: int = 2
    reward_learning_rate: float = 1e-4
    reward_batch: int = 16
    pairs: int | None = None
    """Of HH-harmless, a fifth of them held out; none is all."""
    max_tokens: int = 1024


BUDGETS = {
    "full": Sizes(),
    "small": Sizes(
        pretrain_epochs=1, sft_epochs=1, text_share=0.05, batch=8, minibatch=4, new_tokens=12,
        ppo_epochs=(1, 2), reward_epochs=2, pairs=30, max_tokens=200,
    ),
}  # fmt: skip
FOLDS = 5
PPO = ("approx_kl", "clip_fraction", "policy_loss")
HELD_OUT = ("accuracy", "log_loss")


def main(argv: list[str] | None = None) -> None:
    """Train, measure, print the tables, write the figures."""
    args = arguments(__doc__ or "", "epochs", BUDGETS, argv)
    chosen = sizes(args, BUDGETS)
    shared = args.work.parent / f"policy-{args.budget}"
    cast = taught(args.data, shared, teaching_of(chosen), args.threads, args.model)
    units = [
        Unit(f"ppo-{epochs}", 60, partial(ppo, chosen, cast, epochs, args.work, args.threads))
        for epochs in chosen.ppo_epochs
    ]
    work = partial(reward, chosen, cast, args.data, args.work, args.threads)
    units.append(Unit("reward", 900, work))
    settings = settings_of_units(chosen) | {"model": args.model.name if args.model else None}
    *by_epochs, judged = run_units(args.work, units, settings, args.results)
    found = {
        "teaching": cast.figures,
        "ppo": dict(zip(map(str, chosen.ppo_epochs), by_epochs, strict=True)),
        "reward": judged,
    }
    publish(args, "epochs", chosen, found)


def ppo(chosen: Sizes, cast: Cast, epochs: int, work: Path, threads: int) -> Result:
    """Means over the optimiser steps of the first rollout batch."""
    settings = plain_ppo(chosen, cast.model, cast.prompts, "concise")
    more = {"epochs": epochs, "seed": 0, "threads": threads}
    (line,) = stage("ppo", work / f"run-ppo-{epochs}", settings | more).lines
    return {name: line["values"][name] for name in PPO}


def reward(chosen: Sizes, cast: Cast, data: Path, work: Path, threads: int) -> Result:
    """Of each epoch the held-out pairs, and the mean of the training pairs as it went along."""
    pairs = read_hh(data / "hh-rlhf" / "harmless.jsonl.gz").pairs[: chosen.pairs]
    train, valid = split(pairs, folds(pairs, FOLDS, 0)[0], None, 0)
    settings = {
        "model": str(cast.model),
        "comparisons": str(write_rankings(work / "pairs", train, valid)),
        "batch": chosen.reward_batch,
        "epochs": chosen.reward_epochs,
        "learning_rate": chosen.reward_learning_rate,
        "head_scale": 0.1,
        "max_tokens": chosen.max_tokens,
        "precision": chosen.precision,
        "threads": threads,
    }
    done = stage("reward", work / "run-reward", settings)
    by_epoch: dict[int, list[Mapping[str, Any]]] = {}
    for line in done.lines:
        by_epoch.setdefault(line["values"]["epoch"], []).append(line["values"])
    return {
        "train": len(train),
        "held_out": done.manifest["metrics"]["pairs"],
        "train_accuracy": [
            sum(step["train_accuracy"] for step in steps) / len(steps)
            for steps in by_epoch.values()
        ],
        **{name: [steps[-1][name] for steps in by_epoch.values()] for name in HELD_OUT},
    }


if __name__ == "__main__":
    main()
