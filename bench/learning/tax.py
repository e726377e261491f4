"""The alignment tax and its cure: what PPO, PPO-ptx and the null-space option leave of the language.

The 13.8M model of the benchmarks is taught a little (WikiText-2, then SFT) and trained by a known
reward in several ways, each with the same episodes. Perplexity is that of the last tenth of
WikiText-2 valid, which nothing was trained on; BLiMP is the share of minimal pairs whose grammatical
sentence is likelier. About an hour and a half of two cores at the full budget, whose PPO runs are
those that known_reward makes of `harmless_logit` with as many updates; 20 minutes more for each seed
where there are none, and 3 minutes in all with --budget small. Ten more where the model is not
taught yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.learning.command import arguments, publish, sizes
from bench.learning.episodes import Episodes, plain_ppo, reached, run_ppo
from bench.learning.figures import over_runs
from bench.learning.language import Known, change, measure, read_blimp, summary
from bench.learning.policy import Cast, prompts_for, taught, teaching_of
from bench.learning.units import Result, Unit, extent, run_units, settings_of_units


@dataclass(frozen=True)
class Sizes(Episodes):
    """What is trained and how much is measured."""

    reward: str = "harmless_logit"
    toxic_prompts: int = 210
    """Of RealToxicityPrompts, unless the reward is ``concise``."""
    ptx_coefs: tuple[float, ...] = extent((1.0, 27.8))
    """gamma of the pretraining mix, one arm each; the paper's is 27.8."""
    ptx_per_episode: float = 1.0
    ptx_tokens: int = 64
    null_space_gradients: int = 32
    null_space_sequences: int = 16
    blimp_pairs: int = 50
    """Of each of the 67 paradigms."""


BUDGETS = {
    "full": Sizes(seeds=2, updates=60, max_grad_norm=0.0),
    "small": Sizes(
        pretrain_epochs=1, sft_epochs=1, text_share=0.05, seeds=1, updates=2, batch=8, minibatch=4,
        new_tokens=12, block=1, ptx_coefs=(1.0,), ptx_tokens=32, null_space_gradients=2,
        null_space_sequences=2, blimp_pairs=1, reward="concise",
    ),
}  # fmt: skip
ARM_SECONDS = 1400.0


def main(argv: list[str] | None = None) -> None:
    """Train, measure, print the tables, write the figures."""
    args = arguments(__doc__ or "", "tax", BUDGETS, argv)
    chosen = sizes(args, BUDGETS)
    shared = args.work.parent / f"policy-{args.budget}"
    cast = taught(args.data, shared, teaching_of(chosen), args.threads, args.model)
    prompts = prompts_for(chosen.reward, cast, args.data, shared, chosen.toxic_prompts)
    paradigms = read_blimp(args.data / "blimp" / "BLiMP.zip", chosen.blimp_pairs)

    def look(model: Path) -> Result:
        return measure(model, cast.test_text, paradigms, chosen.window)._asdict()

    def arm(changed: dict[str, Any], seed: int) -> Result:
        settings = plain_ppo(chosen, cast.model, prompts, chosen.reward) | changed
        model, result = run_ppo(shared, settings, seed, args.threads)
        return result | look(model)

    changes = arms(chosen, cast)
    known = [(name, seed) for seed in range(chosen.seeds) for name in changes]
    units = [Unit("before", 60, partial(look, cast.model))]
    units += [
        Unit(f"{name}-{seed}", ARM_SECONDS, partial(arm, changes[name], seed))
        for name, seed in known
    ]
    settings = settings_of_units(chosen) | {"model": args.model.name if args.model else None}
    start, *results = run_units(args.work, units, settings, args.results)
    by_arm: dict[str, list[Result]] = {name: [] for name in changes}
    for (name, _), result in zip(known, results, strict=True):
        by_arm[name].append(result)
    publish(args, "tax", chosen, figures(cast, start, by_arm))


def arms(chosen: Sizes, cast: Cast) -> dict[str, dict[str, Any]]:
    """What each way of training changes of plain PPO."""
    text = {"pretrain_text": str(cast.train_text), "ptx_tokens": chosen.ptx_tokens}
    mix = text | {"against_forgetting": "mix", "ptx_per_episode": chosen.ptx_per_episode}
    null_space = text | {
        "against_forgetting": "null_space",
        "null_space_gradients": chosen.null_space_gradients,
        "null_space_sequences": chosen.null_space_sequences,
    }
    mixes = {f"ppo-ptx-{coef:g}": mix | {"ptx_coef": coef} for coef in chosen.ptx_coefs}
    return {"ppo": {}, **mixes, "null-space": null_space}


def figures(cast: Cast, start: Result, by_arm: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """The model before, and each arm: over seeds what it reached, run by run what it lost."""
    before = known_of(start)
    found = {}
    for name, results in by_arm.items():
        changes = [change(before, known_of(result)) for result in results]
        found[name] = {
            "reward": over_runs([reached(result, "reward") for result in results]).plain(),
            "kl": over_runs([reached(result, "kl") for result in results]).plain(),
            "nats": over_runs([one["nats"]["value"] for one in changes]).plain(),
            "blimp": over_runs([one["blimp"]["value"] for one in changes]).plain(),
            "after": [summary(known_of(result)) for result in results],
            "change": changes,
            "seconds": [result["seconds"] for result in results],
        }
    return {"teaching": cast.figures, "before": summary(before), "arms": found}


def known_of(result: Mapping[str, Any]) -> Known:
    """What ``measure`` gave, from a unit's result."""
    return Known(result["nats"], result["right"])


if __name__ == "__main__":
    main()
