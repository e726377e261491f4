"""Reward model: rankings per second of stage ``reward`` beside TRL's RewardTrainer on their pairs.

``python -m bench.reward`` trains both on the same rankings, K answers each, batch by batch, and
says what share of the held-out pairs each puts in order.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from bench import flops, peer
from bench.common import fresh_work, more_settings, parser, policy_of
from bench.data import PROMPT, RANKED, Author, write_rankings
from bench.flops import Shape
from bench.measure import Figures, figures, stage, stoppable
from bench.report import Benchmark, Case, publish


class Cast(NamedTuple):
    """What both sides work on, for one K."""

    model: Path
    rankings: Path
    train: Sequence[Any]  # as the trainer reads them
    valid: Sequence[Any]
    k: int


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    args = _arguments(argv)
    work = fresh_work(args, "reward")
    model = policy_of(args, work)
    trl = peer.trl(args)
    shape, cases = Shape.of(model), []
    for k in args.answers:
        cast = _cast(args, work / f"k{k}", model, k)
        if args.profile and k == args.answers[0]:
            settings = _one_epoch(args, cast, args.precisions[0])
            stage("reward", work / "profiled", settings, args.profile)
        each = [
            flops.ranking(shape, len(r.answers[0].prompt), [len(a.completion) for a in r.answers])
            for r in cast.train
        ]
        theirs = cache(lambda precision, cast=cast: _peer(args, trl, cast, work, precision))
        for precision in args.precisions:
            ours = _ours(args, cast, work / f"k{k}-{precision}", precision)
            tried = [p for p in args.peer_precisions if precision == "bf16" or p == precision]
            rival = peer.best(map(theirs, tried))
            cases.append(Case(f"K={k} {precision}", precision, ours, rival, sum(each) / len(each)))
    settings = _settings(args, trl, shape)
    publish(Benchmark("reward", "rankings/s", settings, cases, args.threads), args.json)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, repetitions=6)
    options.add_argument("--answers", type=int, nargs="+", default=[4, 9], help="K, 2 to 9")
    options.add_argument("--answer-tokens", type=int, nargs=2, default=RANKED, metavar=("LOW", "HIGH"),
                         help="the fewest and the most tokens of an answer")  # fmt: skip
    options.add_argument("--batch", type=int, default=16, help="rankings per optimiser step")
    options.add_argument("--valid", type=int, default=64, help="held-out rankings")
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--micro-pairs", type=int, default=16, help="of the peer, in one forward")
    return options.parse_args(argv)


def _settings(args: argparse.Namespace, trl: peer.Trl, shape: Shape) -> dict[str, Any]:
    return {
        "model": str(args.model or "drawn on the spot") + f", {shape}",
        "prompt tokens": f"{PROMPT[0]} to {PROMPT[1]}",
        "answer tokens": "{} to {}".format(*args.answer_tokens),
        "rankings per step": args.batch,
        "timed steps": args.repetitions,
        "training rankings": _training(args),
        "held-out rankings": args.valid,
        "learning rate": args.learning_rate,
        "threads": args.threads or "default",
        "more settings": more_settings(args.set),
        "peer": trl.said,
    }


def _cast(args: argparse.Namespace, work: Path, model: Path, k: int) -> Cast:
    from trainer.data import load_rankings
    from trainer.text import Codec

    codec = Codec.load(model)
    author = Author(codec, args.seed)
    low, high = args.answer_tokens
    folder = write_rankings(work / "rankings", author, _training(args), args.valid, k, (low, high))
    found = load_rankings(folder, codec, 2048)
    return Cast(model, folder, found.train, found.valid, k)


def _training(args: argparse.Namespace) -> int:
    """Rankings of one epoch: a step before the timed ones and one after."""
    return int(args.batch * (args.repetitions + 2))


def _one_epoch(args: argparse.Namespace, cast: Cast, precision: str) -> dict[str, Any]:
    return {
        "model": str(cast.model),
        "comparisons": str(cast.rankings),
        "batch": args.batch,
        "learning_rate": args.learning_rate,
        "final_lr_fraction": 1.0,
        "head_scale": 0.4,  # about 0.02 at this width, as TRL draws it
        "checkpoint_every": 10**9,
        "precision": precision,
        "threads": args.threads,
        "seed": args.seed,
    } | more_settings(args.set)


def _ours(args: argparse.Namespace, cast: Cast, out: Path, precision: str) -> Figures:
    """The last step is not timed, as the held-out rankings are scored in it."""
    done = stage("reward", out, _one_epoch(args, cast, precision))
    units, accuracy = [args.batch] * args.repetitions, done.manifest["metrics"]["accuracy"]
    return figures(units, done.times[:-1], done.ended, accuracy=round(accuracy, 4))


def _pairs(rankings: Sequence[Any]) -> list[list[list[int]]]:
    """[better, worse] ids of every untied pair."""
    found = []
    for ranking in rankings:
        placed = sorted(zip(ranking.ranks, ranking.answers, strict=True), key=lambda one: one[0])
        for (rank, better), (other, worse) in combinations(placed, 2):
            if rank < other:
                found.append([better.ids, worse.ids])
    return found


def _peer(
    args: argparse.Namespace, trl: peer.Trl, cast: Cast, work: Path, precision: str
) -> Figures | None:
    """The pairs of a batch of rankings are one of its optimiser steps."""
    if trl.python is None:
        return None
    per_step = args.batch * cast.k * (cast.k - 1) // 2
    micro = max(n for n in range(1, min(args.micro_pairs, per_step) + 1) if per_step % n == 0)
    job = {
        "model": str(cast.model),
        "train": _pairs(cast.train),
        "valid": _pairs(cast.valid),
        "micro_pairs": micro,
        "accumulation": per_step // micro,
        "epochs": 1,
        "learning_rate": args.learning_rate,
        "precision": precision,
        "compile": args.peer_compile,
        "threads": args.threads,
        "seed": args.seed,
    }
    out = work / f"trl-k{cast.k}-{precision}"
    done = peer.work_on(trl.python, "trl_reward.py", job, out)
    units, times = [args.batch] * args.repetitions, done.result["times"][:-1]
    setting = f"TRL RewardTrainer, {precision}, {micro} pairs a forward, {per_step} a step"
    setting += peer.compiled(args)
    accuracy = round(done.result["accuracy"], 4)
    return figures(units, times, done.ended, accuracy=accuracy, setting=setting)


if __name__ == "__main__":
    stoppable()
    main()
