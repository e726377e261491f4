"""Sampling: tokens per second of stage ``sample`` beside ``generate`` of transformers.

``python -m bench.sampling`` draws K answers to every prompt in batches of equal size on both sides.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bench import flops, peer
from bench.common import fresh_work, more_settings, parser, policy_of
from bench.data import PROMPT, Author, write_prompts
from bench.flops import Shape
from bench.measure import Figures, figures, stage, stoppable
from bench.report import Benchmark, Case, publish
from trainer.records import ROWS, SampleRow, read_rows


class Cast(NamedTuple):
    """What both sides work on."""

    model: Path
    prompts: Path
    ids: dict[str, list[int]]  # of each prompt, by its name
    end_ids: list[int]
    pad_id: int


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    args = _arguments(argv)
    work = fresh_work(args, "sampling")
    cast = _cast(args, work)
    if args.profile:
        stage("sample", work / "profiled", _chunks(args, cast, args.precisions[0]), args.profile)
    shape, cases = Shape.of(cast.model), []
    theirs: dict[str, Figures] = {}
    for precision in args.precisions:
        out = work / precision
        ours = _ours(args, cast, out, precision)
        if not args.no_peer:
            theirs[precision] = _peer(args, cast, work, precision)
        rival = peer.best(f for p, f in theirs.items() if precision == "bf16" or p == precision)
        cases.append(Case(precision, precision, ours, rival, _flops_per_token(shape, cast, out)))
    settings = _settings(args, shape)
    publish(Benchmark("sampling", "tokens/s", settings, cases, args.threads), args.json)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, repetitions=5)
    options.add_argument("--answers", type=int, default=4, help="K, of each prompt")
    options.add_argument("--batch", type=int, default=64, help="rows decoded at once")
    options.add_argument("--new-tokens", type=int, default=48)
    options.add_argument(
        "--end-share", type=float, default=0.02, help="chance of an end at each token"
    )
    return options.parse_args(argv)


def _settings(args: argparse.Namespace, shape: Shape) -> dict[str, Any]:
    ends = "the model's own" if args.model else args.end_share
    return {
        "model": str(args.model or "drawn on the spot") + f", {shape}",
        "prompt tokens": f"{PROMPT[0]} to {PROMPT[1]}",
        "new tokens": args.new_tokens,
        "chance of an end at each token": ends,
        "answers per prompt": args.answers,
        "rows": args.batch,
        "timed batches": args.repetitions,
        "threads": args.threads or "default",
        "more settings": more_settings(args.set),
        "peer": None if args.no_peer else "generate of transformers, num_return_sequences",
    }


def _cast(args: argparse.Namespace, work: Path) -> Cast:
    from trainer.data import load_prompts
    from trainer.text import Codec

    model = policy_of(args, work, args.end_share)
    codec = Codec.load(model)
    count = _per_batch(args) * (args.repetitions + 1)
    folder = write_prompts(work / "prompts", Author(codec, args.seed), count)
    ids = {prompt.id: prompt.ids for prompt in load_prompts(folder, codec, 1024).train}
    return Cast(model, folder, ids, sorted(codec.end_ids), codec.pad_id)


def _per_batch(args: argparse.Namespace) -> int:
    return max(1, int(args.batch // args.answers))


def _chunks(args: argparse.Namespace, cast: Cast, precision: str) -> dict[str, Any]:
    """A chunk of prompts is a batch; its folder is written within the time."""
    return {
        "model": str(cast.model),
        "prompts": str(cast.prompts),
        "k": args.answers,
        "max_new_tokens": args.new_tokens,
        "chunk": _per_batch(args),
        "batch": _per_batch(args) * args.answers,
        "precision": precision,
        "threads": args.threads,
        "seed": args.seed,
    } | more_settings(args.set)


def _ours(args: argparse.Namespace, cast: Cast, out: Path, precision: str) -> Figures:
    done = stage("sample", out, _chunks(args, cast, precision))
    tokens = [line["values"]["tokens"] for line in done.lines]
    mean = sum(tokens) / (len(cast.ids) * args.answers)
    return figures(tokens[1:], done.times, done.ended, mean_answer_tokens=round(mean, 1))


def _peer(args: argparse.Namespace, cast: Cast, work: Path, precision: str) -> Figures:
    """Runs in our own environment: the library is the one the trainer stands on."""
    prompts, size = list(cast.ids.values()), _per_batch(args)
    job = {
        "model": str(cast.model),
        "batches": [prompts[i : i + size] for i in range(0, len(prompts), size)],
        "k": args.answers,
        "new_tokens": args.new_tokens,
        "end_ids": cast.end_ids,
        "pad_id": cast.pad_id,
        "precision": precision,
        "threads": args.threads,
        "seed": args.seed,
    }
    out = work / f"generate-{precision}"
    done = peer.work_on(Path(sys.executable), "generate.py", job, out)
    found = done.result
    mean = sum(found["tokens"]) / (len(prompts) * args.answers)
    extra = {"mean_answer_tokens": round(mean, 1), "setting": f"generate, {precision} weights"}
    return figures(found["tokens"][1:], found["times"], done.ended, **extra)


def _flops_per_token(shape: Shape, cast: Cast, out: Path) -> float:
    """Of the answers that were drawn."""
    lengths: dict[str, list[int]] = {}
    for rows in sorted(out.glob(f"chunks/*/{ROWS}")):
        for row in read_rows(rows, SampleRow):
            lengths.setdefault(row.prompt_id, []).append(len(row.token_ids))
    total = sum(flops.sampled(shape, len(cast.ids[name]), n) for name, n in lengths.items())
    return total / sum(map(sum, lengths.values()))


if __name__ == "__main__":
    stoppable()
    main()
