"""PPO: episodes per second of stage ``ppo`` beside TRL's PPOTrainer, same model, same prompts.

``python -m bench.ppo`` draws a small Llama, writes prompts of 8 to 64 tokens and runs both on them.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench import flops, peer
from bench.common import build_reward_model, fresh_work, more_settings, parser, policy_of
from bench.data import PROMPT, Author, write_prompts
from bench.flops import Shape
from bench.measure import Figures, figures, stage, stoppable
from bench.report import Benchmark, Case, publish

_LEARNING_RATE = 1e-6


class Cast(NamedTuple):
    """What both sides work on."""

    policy: Path
    reward: Path
    prompts: Path
    ids: list[list[int]]  # of the prompts


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    args = _arguments(argv)
    work = fresh_work(args, "ppo")
    cast = _cast(args, work)
    trl = peer.trl(args)
    if args.profile:
        settings = _plain_ppo(args, cast, args.precisions[0], updates=1)
        stage("ppo", work / "profiled", settings, args.profile)
    shape = Shape.of(cast.policy)
    each = [flops.episode(shape, len(ids), args.new_tokens, args.epochs) for ids in cast.ids]
    theirs = cache(lambda precision: _peer(args, trl, cast, work, precision))
    cases = []
    for precision in args.precisions:
        ours = _ours(args, cast, work / precision, precision)
        tried = [p for p in args.peer_precisions if precision == "bf16" or p == precision]
        rival = peer.best(map(theirs, tried))
        cases.append(Case(precision, precision, ours, rival, sum(each) / len(each)))
    settings = _settings(args, trl, shape)
    publish(Benchmark("ppo", "episodes/s", settings, cases, args.threads), args.json)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, repetitions=3)
    options.add_argument("--batch", type=int, default=64, help="episodes per update")
    options.add_argument("--minibatches", type=int, default=4)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--new-tokens", type=int, default=48)
    return options.parse_args(argv)


def _settings(args: argparse.Namespace, trl: peer.Trl, shape: Shape) -> dict[str, Any]:
    return {
        "model": str(args.model or "drawn on the spot") + f", {shape}",
        "prompt tokens": f"{PROMPT[0]} to {PROMPT[1]}",
        "new tokens": args.new_tokens,
        "episodes per update": args.batch,
        "minibatches": args.minibatches,
        "epochs": args.epochs,
        "timed updates": args.repetitions,
        "threads": args.threads or "default",
        "more settings": more_settings(args.set),
        "peer": trl.said,
    }


def _cast(args: argparse.Namespace, work: Path) -> Cast:
    from trainer.data import load_prompts
    from trainer.text import Codec

    policy = policy_of(args, work)
    codec = Codec.load(policy)
    author = Author(codec, args.seed)
    prompts = write_prompts(work / "prompts", author, args.batch * (args.repetitions + 1))
    ids = [prompt.ids for prompt in load_prompts(prompts, codec, 1024).train]
    reward = build_reward_model(policy, work / "reward", args.seed)
    return Cast(policy, reward, prompts, ids)


def _plain_ppo(
    args: argparse.Namespace, cast: Cast, precision: str, updates: int
) -> dict[str, Any]:
    """The pretraining mix, the average and the held-out prompts are left out, as TRL has none."""
    return {
        "policy": str(cast.policy),
        "reward": str(cast.reward),
        "prompts": str(cast.prompts),
        "episodes": args.batch * updates,
        "batch": args.batch,
        "minibatch": args.batch // args.minibatches,
        "epochs": args.epochs,
        "max_new_tokens": args.new_tokens,
        "generate_batch": args.batch,
        "learning_rate": _LEARNING_RATE,
        "value_learning_rate": _LEARNING_RATE,
        "against_forgetting": "none",
        "ema_decay": 0.0,
        "eval_prompts": 0,
        "checkpoint_every": 10**9,
        "precision": precision,
        "threads": args.threads,
        "seed": args.seed,
    } | more_settings(args.set)


def _ours(args: argparse.Namespace, cast: Cast, out: Path, precision: str) -> Figures:
    done = stage("ppo", out, _plain_ppo(args, cast, precision, args.repetitions + 1))
    answer = round(done.lines[-1]["values"]["response_length"], 2)
    units = [args.batch] * args.repetitions
    return figures(units, done.times, done.ended, answer_tokens=answer)


def _peer(
    args: argparse.Namespace, trl: peer.Trl, cast: Cast, work: Path, precision: str
) -> Figures | None:
    if trl.python is None:
        return None
    job = {
        "model": str(cast.policy),
        "reward": str(cast.reward),
        "prompts": cast.ids,
        "batch": args.batch,
        "minibatches": args.minibatches,
        "epochs": args.epochs,
        "new_tokens": args.new_tokens,
        "updates": args.repetitions + 1,
        "learning_rate": _LEARNING_RATE,
        "precision": precision,
        "threads": args.threads,
        "seed": args.seed,
    }
    done = peer.work_on(trl.python, "trl_ppo.py", job, work / f"trl-{precision}")
    units = [args.batch] * args.repetitions
    setting = f"TRL PPOTrainer, {precision}, minibatches whole, no checkpointing of activations"
    return figures(units, done.result["times"], done.ended, setting=setting)


if __name__ == "__main__":
    stoppable()
    main()
