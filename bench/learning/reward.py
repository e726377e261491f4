"""Reward models on people's preferences, from SmolLM2-135M: what a few hundred pairs teach.

1. HH-harmless pairs in five folds by the human's opening turn, beside "the shorter reply wins", a
   bag-of-words regression and a linear probe of SmolLM2's frozen last states, on the same folds.
2. The learning curve: fewer training pairs, in as many folds as --set curve_folds=N says.
3. Open-Assistant's rankings in folds by conversation: K-wise against the same pairs each a ranking
   of its own, as many optimiser steps.

One seed; the lowest 26 of 30 blocks are frozen, and what they give is kept on disk (1 GB). About
2 hours of two cores in all at the full budget; with --budget small 2 minutes on the 13.8M model,
drawn, untaught. --model names the folder of SmolLM2-135M-Instruct (`python -m trainer base` makes
one).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import build_model
from bench.learning import probes
from bench.learning.command import arguments, publish, sizes
from bench.learning.figures import over_runs, wilson
from bench.learning.pairs import (
    HH,
    Ranked,
    expanded,
    folds,
    read_hh,
    read_open_assistant,
    split,
    write_rankings,
)
from bench.learning.units import Result, Unit, extent, run_units, settings_of_units
from bench.measure import stage
from trainer.config import Precision


@dataclass(frozen=True)
class Sizes:
    """How much is learned from and measured."""

    folds: int = 5
    hh_folds: int = extent(5)
    """Folds that a reward model is trained for, of those."""
    curve: tuple[int, ...] = (180, 365, 730)
    """Training pairs of the learning curve, beside all."""
    curve_folds: int = extent(1)
    open_assistant_folds: int = extent(2)
    rows: int = 1825
    """HH pairs read."""
    rankings: int = 212
    """Open-Assistant rankings read."""
    learning_rate: float = 1e-4
    epochs: int = 1
    batch: int = 16
    """HH pairs, or Open-Assistant rankings, per optimiser step."""
    freeze_layers: int = 26
    max_tokens: int = 1024
    chunk: int = 365
    """Pairs whose states are computed and kept together."""
    precision: Precision = "bf16"
    seed: int = 0


BUDGETS = {
    "full": Sizes(),
    "small": Sizes(
        folds=3, hh_folds=1, curve=(8,), curve_folds=1, open_assistant_folds=1, rows=30,
        rankings=12, batch=8, freeze_layers=4, chunk=15, max_tokens=512,
    ),
}  # fmt: skip
LONGEST = 8192
"""Tokens whose states are computed for the probe: no pair is left out."""
PER_PAIR, PER_STATE, PER_RANKING = 0.2, 0.5, 1.5  # seconds


def main(argv: list[str] | None = None) -> None:
    """Train, measure, print the tables, write the figures."""
    args = arguments(__doc__ or "", "reward", BUDGETS, argv)
    chosen = sizes(args, BUDGETS)
    if args.model is None and args.budget == "full":
        raise SystemExit("Name the folder of SmolLM2-135M-Instruct: --model.")
    bench = Bench(chosen, args.data, args.work, args.model, args.threads)
    units = bench.units()
    settings = settings_of_units(chosen) | {"model": args.model.name if args.model else None}
    results = run_units(args.work, units, settings, args.results)
    found = dict(zip([unit.name for unit in units], results, strict=True))
    publish(args, "reward", chosen, bench.figures(found))


class Bench:
    """The data, its folds, and the units that are made of them."""

    def __init__(
        self, chosen: Sizes, data: Path, work: Path, model: Path | None, threads: int
    ) -> None:
        self.chosen, self.work, self.threads = chosen, work, threads
        self.model = model or small_model(data, work)
        self.frozen = work / "frozen"  # serves every fold and every size
        read = read_hh(data / "hh-rlhf" / "harmless.jsonl.gz")
        self.hh = HH(read.pairs[: chosen.rows], read.apart, read.left_out)
        ranked = read_open_assistant(data / "open-assistant" / "en_100_tree.jsonl")
        self.rankings = [one for one in ranked if one.pairs][: chosen.rankings]
        self.hh_folds = folds(self.hh.pairs, chosen.folds, chosen.seed)
        self.ranking_folds = folds(self.rankings, chosen.folds, chosen.seed)

    def units(self) -> list[Unit]:
        """Floors, probe, folds, curve, K-wise against pairs: what matters most first."""
        chosen, found = self.chosen, [Unit("floors", 60, self.floors)]
        found.append(Unit("probe", 120 + PER_STATE * len(self.hh.pairs), self.probe))
        for fold in range(chosen.hh_folds):
            found.append(self.unit_of_hh(fold, None))
        for fold in range(min(chosen.curve_folds, chosen.hh_folds)):
            found += [self.unit_of_hh(fold, size) for size in chosen.curve]
        for fold in range(chosen.open_assistant_folds):
            for how, share in (("kwise", 1.0), ("pairs", 2.5)):
                seconds = share * PER_RANKING * len(self.rankings)
                found.append(Unit(f"{how}-{fold}", seconds, partial(self.ranked, how, fold)))
        return found

    def unit_of_hh(self, fold: int, size: int | None) -> Unit:
        """A reward model on so many training pairs of a fold."""
        count = size or len(self.hh.pairs)
        return Unit(hh_name(fold, size), PER_PAIR * count, partial(self.pairwise, fold, size))

    # ---- the work ---------------------------------------------------------------------------------

    def pairwise(self, fold: int, size: int | None) -> Result:
        """A reward model on HH pairs."""
        parts = split(self.hh.pairs, self.hh_folds[fold], size, self.chosen.seed)
        return self.train(f"run-{hh_name(fold, size)}", *parts, self.chosen.batch)

    def ranked(self, how: str, fold: int) -> Result:
        """A reward model on rankings, or on their pairs in as many steps."""
        held_out = self.ranking_folds[fold]
        train, valid = split(self.rankings, held_out, None, self.chosen.seed)
        batch = self.chosen.batch
        if how == "pairs":
            steps, train = -(-len(train) // batch), expanded(train)
            batch = -(-len(train) // steps)
        return self.train(f"run-{how}-{fold}", train, valid, batch)

    def train(
        self, name: str, train: Sequence[Ranked], valid: Sequence[Ranked], batch: int
    ) -> Result:
        """A run of stage ``reward``, or the rest of it."""
        settings = {
            "model": str(self.model),
            "comparisons": str(write_rankings(self.work / f"data-{name}", train, valid)),
            "batch": batch,
            "epochs": self.chosen.epochs,
            "learning_rate": self.chosen.learning_rate,
            "head_scale": 0.1,
            "freeze_layers": self.chosen.freeze_layers,
            "frozen_states": str(self.frozen),
            "max_tokens": self.chosen.max_tokens,
            "checkpoint_every": 10,
            "precision": self.chosen.precision,
            "threads": self.threads,
            "seed": self.chosen.seed,
        }
        metrics = stage("reward", self.work / name, settings).manifest["metrics"]
        return {
            "train": len(train),
            "steps": metrics["steps"],
            "accuracy": metrics["accuracy"],
            "pairs": metrics["pairs"],
            "log_loss": metrics["log_loss"],
        }

    def features(self) -> np.ndarray:
        """[pairs, 2, H] last states of every pair; what was computed before is read."""
        found = []
        for first in range(0, len(self.hh.pairs), self.chosen.chunk):
            some = self.hh.pairs[first : first + self.chosen.chunk]
            file = self.work / f"states-{first}.npy"
            if not file.is_file():
                snapshot = write_rankings(self.work / f"data-states-{first}", some, [])
                states = probes.last_states(
                    self.model,
                    snapshot,
                    self.chosen.freeze_layers,
                    LONGEST,
                    self.chosen.precision,
                    self.frozen,
                )
                if len(states) != len(some):
                    raise SystemExit(f"A pair of {snapshot.name} is longer than {LONGEST} tokens.")
                beside = file.with_name(f"part-{file.name}")
                np.save(beside, states)
                beside.replace(file)
            found.append(np.load(file))
        return np.concatenate(found)

    def probe(self) -> Result:
        """Right or wrong of every held-out pair by the linear probe, and its learning curve."""
        features = self.features()
        everything = range(len(self.hh.pairs))
        found = {}
        for size in (*self.chosen.curve, None):
            right = []
            for held_out in self.hh_folds:
                train, valid = split(everything, held_out, size, self.chosen.seed)
                right.append(probes.linear_probe(features, train, valid))
            found[size_name(size)] = right
        return {"right": found}

    def floors(self) -> Result:
        """Right or wrong of every held-out pair by length and by words."""
        parts = [split(self.hh.pairs, fold, None, self.chosen.seed) for fold in self.hh_folds]
        return {
            "shorter": [probes.shorter_wins(valid) for _, valid in parts],
            "words": [probes.bag_of_words(train, valid) for train, valid in parts],
        }

    # ---- figures ----------------------------------------------------------------------------------

    def figures(self, found: Mapping[str, Result]) -> dict[str, Any]:
        """Accuracies with intervals over pairs (Wilson) and over folds (Student)."""
        chosen = self.chosen
        every = [found[hh_name(fold, None)] for fold in range(chosen.hh_folds)]
        probe = found["probe"]["right"]
        curve = {}
        for size in (*chosen.curve, None):
            some = range(chosen.hh_folds if size is None else chosen.curve_folds)
            models = [found[hh_name(fold, size)] for fold in some]
            curve[size_name(size)] = {
                "train": size or round(len(self.hh.pairs) * (1 - 1 / chosen.folds)),
                "reward model": of_models(models) if models else None,
                "linear probe": of_pairs(probe[size_name(size)]),
            }
        kinds = {
            how: [found[f"{how}-{fold}"] for fold in range(chosen.open_assistant_folds)]
            for how in ("kwise", "pairs")
        }
        return {
            "hh": {
                "pairs": len(self.hh.pairs), "apart": self.hh.apart, "left_out": self.hh.left_out,
                "reward model": of_models(every),
                "linear probe": of_pairs(probe[size_name(None)]),
                "bag of words": of_pairs(found["floors"]["words"]),
                "shorter reply": of_pairs(found["floors"]["shorter"]),
            },
            "curve": curve,
            "open_assistant": {"rankings": len(self.rankings)}
            | {how: of_models(some) for how, some in kinds.items() if some},
        }  # fmt: skip


def hh_name(fold: int, size: int | None) -> str:
    """Of a unit."""
    return f"hh-{fold}-{size_name(size)}"


def size_name(size: int | None) -> str:
    """Of a number of training pairs."""
    return "all" if size is None else str(size)


def small_model(data: Path, work: Path) -> Path:
    """The 13.8M model, drawn, with a tokenizer of English."""
    from bench.learning.policy import cut_text, learn_tokenizer

    text = cut_text(data / "wikitext-2" / "valid.txt", work, 0.05)["train"]
    return build_model(work / "drawn", 0, tokenizer=learn_tokenizer(text))


def of_models(results: Sequence[Result]) -> dict[str, Any]:
    """Accuracy of reward models, each on the held-out pairs of its fold."""
    right = sum(result["accuracy"] * result["pairs"] for result in results)
    pairs = sum(result["pairs"] for result in results)
    return {
        "accuracy": wilson(right, pairs).plain(),
        "by_fold": over_runs([result["accuracy"] for result in results]).plain(),
        "train": round(sum(result["train"] for result in results) / len(results)),
        "log_loss": over_runs([result["log_loss"] for result in results]).plain(),
        "steps": [result["steps"] for result in results],
        "seconds": [result["seconds"] for result in results],
    }


def of_pairs(by_fold: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The same of a learner that says pair by pair whether it was right."""
    right = [one for fold in by_fold for one in fold]
    return {
        "accuracy": wilson(sum(right), len(right)).plain(),
        "by_fold": over_runs([sum(fold) / len(fold) for fold in by_fold]).plain(),
    }


if __name__ == "__main__":
    main()
