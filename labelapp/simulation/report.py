"""The end of a demo round: a table for people, a file for programs."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labelapp.simulation.figures import RoundFigures
from labelapp.simulation.statistics import Interval

NAMES = {
    "sample": "Answers to rank",
    "text": "Pretraining text",
    "sft": "SFT",
    "reward": "Reward model",
    "ppo": "PPO-ptx",
    "test_base": "Test answers, base",
    "test_sft": "Test answers, SFT",
    "test_policy": "Test answers, new policy",
}


def report_table(figures: RoundFigures) -> str:
    """Stages with seconds, tokens and tokens per second; then what was learned."""
    lines = [f"{'':26}{'seconds':>9}{'tokens':>10}{'tokens/s':>10}"]
    for name, stage in figures.stages.items():
        lines.append(
            f"{NAMES.get(name, name):26}{stage.seconds:9.0f}{stage.tokens:10,}"
            f"{stage.tokens_per_second:10.0f}"
        )
    agreement = figures.labeler_agreement
    lines += [
        f"{'Whole round':26}{figures.total_seconds:9.0f}",
        "",
        _line("Reward model, held-out pairs", _percent(figures.rm_accuracy)),
        _line("Labelers' own agreement", f"{_percent(agreement.rate)}  ({agreement.pairs} pairs)"),
        _line("KL from SFT, nats per answer", "-" if figures.kl is None else f"{figures.kl:.2f}"),
        _line("New policy against SFT", _interval(figures.win_rate_vs_sft)),
        _line("New policy against base", _interval(figures.win_rate_vs_base)),
    ]
    return "\n".join(lines)


def report_sentence(figures: RoundFigures) -> str:
    """What the interval against SFT says."""
    interval = figures.win_rate_vs_sft
    if interval.low > 0.5:
        return "The new policy's answers are preferred to SFT's: the whole interval is above 50 %."
    if interval.high < 0.5:
        return "The new policy's answers are worse than SFT's: the whole interval is below 50 %."
    return "Whether the new policy is better than SFT is open: the interval holds 50 %."


def report_plain(figures: RoundFigures) -> dict[str, Any]:
    """The same as JSON: rates as fractions, KL in nats per answer."""
    return {
        "round": figures.round,
        "total_seconds": figures.total_seconds,
        "stages": {
            name: {**asdict(stage), "tokens_per_second": stage.tokens_per_second}
            for name, stage in figures.stages.items()
        },
        "demonstrations": figures.demonstrations,
        "rankings": figures.rankings,
        "rm_accuracy": figures.rm_accuracy,
        "labeler_agreement": figures.labeler_agreement.rate,
        "labeler_agreement_pairs": figures.labeler_agreement.pairs,
        "kl": figures.kl,
        "win_rate_vs_sft": asdict(figures.win_rate_vs_sft),
        "win_rate_vs_base": asdict(figures.win_rate_vs_base),
    }


def report_write(figures: RoundFigures, path: Path) -> None:
    """Write the JSON beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8") as out:
            json.dump(report_plain(figures), out, indent=1)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _line(name: str, value: str) -> str:
    return f"{name:32}{value}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(interval: Interval) -> str:
    return (
        f"{_percent(interval.value)}  (95 % interval {100 * interval.low:.1f} to"
        f" {100 * interval.high:.1f}; {interval.n} prompts)"
    )
