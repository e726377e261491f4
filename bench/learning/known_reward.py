"""PPO against a reward that is known: reward against KL, beside TRL 1.12.0 and best-of-n.

The 13.8M model of the benchmarks is taught a little and trained by `concise` (real users' prompts)
and by `harmless` or `harmless_logit` (RealToxicityPrompts). TRL has the same model, prompts, value
model at the start, episodes and settings. Both sides' points are means over the answers that their
updates drew; they are compared at equal KL, on the line between two points, seed by seed. Best-of-n
is drawn from the start policy, at the bound log n - (n - 1) / n on its KL. About 1.8 hours of two
cores in all at the full budget, 4 minutes with --budget small; ten minutes more where tax has not
taught the model yet.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import peer
from bench.data import write_snapshot
from bench.learning.command import arguments, publish, sizes
from bench.learning.episodes import Episodes, plain_ppo, points, reached, run_ppo
from bench.learning.figures import between, equal_kl, over_items, over_runs, verdict
from bench.learning.policy import Cast, prompts_for, taught, teaching_of
from bench.learning.units import Result, Unit, extent, run_units, settings_of_units
from bench.measure import ROOT, stage
from trainer.records import PromptRow, read_manifest, read_rows


@dataclass(frozen=True)
class Sizes(Episodes):
    """What is trained beside what."""

    rewards: tuple[str, ...] = extent(("concise", "harmless"))
    harmless_kl_coef: float = 0.002
    """beta where the reward is ``harmless``, whose answers differ by a tenth of what those of
    ``concise`` do."""
    toxic_prompts: int = 210
    """Of RealToxicityPrompts, the same number of each attribute."""
    best_of: int = 64
    best_prompts: int = 64
    """Prompts that best-of-n is drawn for."""
    peer: bool = extent(True)
    """Whether TRL is run too."""
    kls: tuple[float, ...] = extent((0.5, 1.0, 2.0, 4.0, 8.0, 16.0))
    """Where both sides are compared, nats per answer."""


BUDGETS = {
    "full": Sizes(),
    "small": Sizes(
        pretrain_epochs=1, sft_epochs=1, text_share=0.05, seeds=1, updates=2, batch=8, minibatch=4,
        new_tokens=12, block=1, rewards=("concise",), toxic_prompts=14, best_of=4, best_prompts=8,
    ),
}  # fmt: skip
OURS, PEER, BEST = 480.0, 600.0, 400.0  # seconds of a unit


def main(argv: list[str] | None = None) -> None:
    """Train, draw, print the tables, write the figures."""
    args = arguments(__doc__ or "", "known_reward", BUDGETS, argv)
    chosen = sizes(args, BUDGETS)
    shared = args.work.parent / f"policy-{args.budget}"
    cast = taught(args.data, shared, teaching_of(chosen), args.threads, args.model)
    units = []
    for reward in chosen.rewards:
        prompts = prompts_for(reward, cast, args.data, shared, chosen.toxic_prompts)
        units += Bench(chosen, cast, reward, prompts, args.work, shared, args.threads).units()
    settings = settings_of_units(chosen) | {"model": args.model.name if args.model else None}
    results = run_units(args.work, units, settings, args.results)
    found = dict(zip([unit.name for unit in units], results, strict=True))
    rewards = {reward: figures(chosen, reward, found) for reward in chosen.rewards}
    publish(args, "known_reward", chosen, {"teaching": cast.figures, "rewards": rewards})


class Bench:
    """Both sides and best-of-n by one reward."""

    def __init__(
        self,
        chosen: Sizes,
        cast: Cast,
        reward: str,
        prompts: Path,
        work: Path,
        shared: Path,
        threads: int,
    ) -> None:
        self.chosen, self.cast, self.reward = chosen, cast, reward
        self.prompts, self.work, self.shared, self.threads = prompts, work, shared, threads
        self.settings = plain_ppo(chosen, cast.model, prompts, reward)
        if reward == "harmless":
            self.settings["kl_coef"] = chosen.harmless_kl_coef

    def units(self) -> list[Unit]:
        """Both sides seed by seed, so that what a run cut short leaves can be compared."""
        found = [Unit(name_of("best", self.reward), BEST, self.best)]
        for seed in range(self.chosen.seeds):
            found.append(Unit(name_of("ppo", self.reward, seed), OURS, partial(self.ours, seed)))
            if self.chosen.peer:
                theirs = partial(self.theirs, seed)
                found.append(Unit(name_of("trl", self.reward, seed), PEER, theirs))
        return found

    def ours(self, seed: int) -> Result:
        """A run of stage ``ppo``."""
        _, result = run_ppo(self.shared, self.settings, seed, self.threads)
        return result

    def theirs(self, seed: int) -> Result:
        """The same of TRL, which cannot go on where it was cut short."""
        from trainer.data import load_prompts
        from trainer.text import Codec

        settings, sizes = self.settings, self.chosen
        codec = Codec.load(self.cast.model)
        prompts = load_prompts(self.prompts, codec, settings["max_prompt_tokens"]).train
        value = write_value_model(self.cast.model, self.work / f"value-{seed}", seed)
        job = {
            "model": str(self.cast.model),
            "value": str(value),
            "prompts": [prompt.ids for prompt in prompts],
            "scorer": [sys.executable, "-m", "bench.learning.scorer", self.reward],
            "root": str(ROOT),
            "batch": sizes.batch,
            "minibatches": sizes.batch // sizes.minibatch,
            "epochs": sizes.epochs,
            "new_tokens": sizes.new_tokens,
            "updates": sizes.updates,
            "kl_coef": settings["kl_coef"],
            "learning_rate": sizes.learning_rate,
            "precision": sizes.precision,
            "threads": self.threads,
            "seed": seed,
        }
        out = self.work / f"run-trl-{self.reward}-{seed}"
        python = peer.trl_python(ROOT / "var" / "bench")
        return peer.work_on(python, "trl_ppo_known.py", job, out).result

    def best(self) -> Result:
        """Expected reward of the best of 1, 2, 4, ... answers of the start policy."""
        some = write_some_prompts(self.prompts, self.work / f"few-{self.reward}", self.chosen)
        settings = {
            "model": str(self.cast.model),
            "prompts": str(some),
            "reward_function": self.reward,
            "k": self.chosen.best_of,
            "chunk": 8,
            "batch": 256,
            "max_new_tokens": self.chosen.new_tokens,
            "max_prompt_tokens": self.settings["max_prompt_tokens"],
            "precision": self.chosen.precision,
            "threads": self.threads,
        }
        done = stage("best", self.work / f"run-best-{self.reward}", settings)
        return {"curve": best_curve(done.out)}


def best_curve(out: Path) -> list[dict[str, Any]]:
    """The curve of a finished run of stage ``best``, with bootstrap intervals over prompts."""
    import torch

    from trainer.best_of_n import SCORES, ScoredPrompt
    from trainer.losses import expected_best

    curve: list[dict[str, Any]] = read_manifest(out).metrics["curve"]  # type: ignore[assignment]
    files = sorted(out.glob(f"chunks/*/{SCORES}"))
    scores = torch.tensor([row.scores for file in files for row in read_rows(file, ScoredPrompt)])
    for point in curve:
        found = over_items(expected_best(scores, point["n"]).tolist())
        point |= {"low": found.low, "high": found.high}
    return curve


def name_of(side: str, reward: str, seed: int | None = None) -> str:
    """Of a unit."""
    return f"{side}-{reward}" if seed is None else f"{side}-{reward}-{seed}"


# ---- what both sides work on ----------------------------------------------------------------------


def write_some_prompts(prompts: Path, folder: Path, chosen: Sizes) -> Path:
    """The first train prompts of a snapshot, for best-of-n."""
    from trainer.data import read_snapshot

    rows = [row for row in read_snapshot(prompts, "prompts", PromptRow) if row.split == "train"]
    return write_snapshot(folder, "prompts", rows[: chosen.best_prompts])


def write_value_model(policy: Path, dest: Path, seed: int) -> Path:
    """The value model that stage ``ppo`` draws with this seed, as a folder."""
    from trainer.models import ScalarModel, save_reward_model
    from trainer.stack import pick_device
    from trainer.text import Codec

    pad = Codec.load(policy).pad_id
    model = ScalarModel.fresh(policy, 0, "fp32", pick_device(), pad_id=pad, seed=seed)
    head = {"score.weight": model.head.weight.detach()}
    save_reward_model(policy, head, dest, bias=0.0, pad_id=pad)
    return dest


# ---- figures --------------------------------------------------------------------------------------


def figures(chosen: Sizes, reward: str, found: Mapping[str, Result]) -> dict[str, Any]:
    """What both sides reached, their difference at equal KL, and best-of-n."""
    sides = ("ppo", "trl") if chosen.peer else ("ppo",)
    runs = {side: [found[name_of(side, reward, s)] for s in range(chosen.seeds)] for side in sides}
    paths = {side: [points(run, chosen.block) for run in some] for side, some in runs.items()}
    rows = equal_kl(paths["ppo"], paths["trl"], chosen.kls) if chosen.peer else []
    whole = between(paths["ppo"], paths["trl"]) if chosen.peer else None
    return {
        "best_of_n": found[name_of("best", reward)]["curve"],
        "reached": {side: _reached(some) for side, some in runs.items()},
        "paths": {side: [[list(p) for p in path] for path in some] for side, some in paths.items()},
        "equal_kl": rows,
        "between": None if whole is None else whole.plain(),
        "verdict": verdict(whole),
    }


def _reached(runs: Sequence[Result]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: over_runs([reached(run, name) for run in runs]).plain() for name in ("reward", "kl")
    }
    return found | {"seconds": [run["seconds"] for run in runs]}


if __name__ == "__main__":
    main()
