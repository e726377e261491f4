"""SFT: real tokens per second of stage ``sft`` beside TRL's SFTTrainer, packed and unpacked.

``python -m bench.sft`` runs both over the same demonstrations; padding is no token.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench import flops, peer
from bench.common import fresh_work, more_settings, parser, policy_of
from bench.data import PROMPT, WRITTEN, Author, write_demonstrations
from bench.flops import Shape
from bench.measure import Figures, figures, stage, stoppable
from bench.report import Benchmark, Case, publish

_LEARNING_RATE = 1e-4
_PACK_TOKENS = 256


class Cast(NamedTuple):
    """What both sides work on."""

    model: Path
    demonstrations: Path
    examples: Sequence[Any]  # as the trainer reads them

    @property
    def tokens(self) -> int:
        """Of all examples, prompts included."""
        return sum(len(example.ids) for example in self.examples)


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    args = _arguments(argv)
    work = fresh_work(args, "sft")
    cast = _cast(args, work)
    trl = peer.trl(args)
    if args.profile:
        stage("sft", work / "profiled", _packed(args, cast, args.precisions[0], 1), args.profile)
    shape = Shape.of(cast.model)
    each = [flops.sft(shape, len(e.prompt), len(e.completion)) for e in cast.examples]
    theirs = cache(lambda precision: _peer(args, trl, cast, work, precision))
    cases = []
    for precision in args.precisions:
        ours = _ours(args, cast, work / precision, precision)
        tried = [p for p in args.peer_precisions if precision == "bf16" or p == precision]
        rival = peer.best(map(theirs, tried))
        cases.append(Case(precision, precision, ours, rival, sum(each) / cast.tokens))
    settings = _settings(args, trl, shape, cast)
    publish(Benchmark("sft", "tokens/s", settings, cases, args.threads), args.json)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, repetitions=3)
    options.add_argument("--batch", type=int, default=32, help="demonstrations per step")
    options.add_argument("--steps", type=int, default=6, help="per repetition, which is an epoch")
    options.add_argument("--micro-rows", type=int, default=16, help="of the unpacked peer")
    return options.parse_args(argv)


def _settings(args: argparse.Namespace, trl: peer.Trl, shape: Shape, cast: Cast) -> dict[str, Any]:
    return {
        "model": str(args.model or "drawn on the spot") + f", {shape}",
        "prompt tokens": f"{PROMPT[0]} to {PROMPT[1]}",
        "completion tokens": f"{WRITTEN[0]} to {WRITTEN[1]}",
        "demonstrations per step": args.batch,
        "tokens per repetition": cast.tokens,
        "timed repetitions": args.repetitions,
        "threads": args.threads or "default",
        "more settings": more_settings(args.set),
        "peer": trl.said,
    }


def _cast(args: argparse.Namespace, work: Path) -> Cast:
    from trainer.data import load_demonstrations
    from trainer.text import Codec

    model = policy_of(args, work)
    codec = Codec.load(model)
    count = args.batch * args.steps
    folder = write_demonstrations(work / "demonstrations", Author(codec, args.seed), count)
    return Cast(model, folder, load_demonstrations(folder, codec, 2048).train)


def _packed(args: argparse.Namespace, cast: Cast, precision: str, epochs: int) -> dict[str, Any]:
    return {
        "model": str(cast.model),
        "demonstrations": str(cast.demonstrations),
        "epochs": epochs,
        "batch": args.batch,
        "pack": True,
        "pack_tokens": _PACK_TOKENS,
        "learning_rate": _LEARNING_RATE,
        "final_lr_fraction": 1.0,
        "checkpoint_every": 10**9,
        "precision": precision,
        "threads": args.threads,
        "seed": args.seed,
    } | more_settings(args.set)


def _ours(args: argparse.Namespace, cast: Cast, out: Path, precision: str) -> Figures:
    done = stage("sft", out, _packed(args, cast, precision, args.repetitions + 1))
    ends = done.times[args.steps - 1 :: args.steps]
    return figures([cast.tokens] * args.repetitions, ends, done.ended)


def _peer(
    args: argparse.Namespace, trl: peer.Trl, cast: Cast, work: Path, precision: str
) -> Figures | None:
    if trl.python is None:
        return None
    python = trl.python
    return peer.best(_trl(args, python, cast, work, precision, packed) for packed in (False, True))


def _trl(
    args: argparse.Namespace, python: Path, cast: Cast, work: Path, precision: str, packed: bool
) -> Figures:
    """Packed, a forward takes one row: TRL lays all rows of it end to end, and attention without
    a kernel for that costs the square of their length.
    """
    rows = 1 if packed else min(args.micro_rows, args.batch)
    per_step = cast.tokens / args.steps / _PACK_TOKENS if packed else args.batch / rows
    job = {
        "model": str(cast.model),
        "ids": [example.ids for example in cast.examples],
        "learned": [example.learned for example in cast.examples],
        "packed": packed,
        "pack_tokens": _PACK_TOKENS,
        "rows": rows,
        "accumulation": max(1, round(per_step)),
        "epochs": args.repetitions + 1,
        "learning_rate": _LEARNING_RATE,
        "precision": precision,
        "compile": args.peer_compile,
        "threads": args.threads,
        "seed": args.seed,
    }
    how = "packed" if packed else "unpacked"
    out = work / f"trl-{how}-{precision}"
    done = peer.work_on(python, "trl_sft.py", job, out)
    times = done.result["times"]
    steps = len(times) // (args.repetitions + 1)
    ends = times[steps - 1 :: steps]
    setting = f"TRL SFTTrainer, {precision}, {how}, {rows} rows a forward{peer.compiled(args)}"
    return figures([cast.tokens] * args.repetitions, ends, done.ended, setting=setting)


if __name__ == "__main__":
    stoppable()
    main()
