"""What a reward model is worth on held-out rankings: accuracy, log loss and calibration, by group.

A model can be good at one and poor at another, so they stand side by side, each with its count.
An interval is Wilson's, of 95 %, over pairs; pairs of one ranking share answers, so it is rather
too narrow than too wide.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import losses
from trainer.data import Ranking
from trainer.records import write_atomic

REPORT = "report.json"
NOT_STATED = "not stated"
BINS = 10
GAPS = "calibration_gaps"
"""What a fold's figures hold beside those that are reported, for their calibration pooled."""
_Z = 1.959964  # of 95 %


class Pairs(NamedTuple):
    """Every untied pair of a set of rankings."""

    differences: Tensor  # [N] score of the better answer minus score of the worse
    ranking: Tensor  # [N] long, place of the pair's ranking in the set

    def of(self, kept: Sequence[bool]) -> "Pairs":
        """The pairs of the rankings that are ``kept``."""
        mask = torch.tensor(kept, dtype=torch.bool)[self.ranking]
        return Pairs(self.differences[mask], self.ranking[mask])


def joined_pairs(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all processes, in the order of the rankings where there are several."""
    if len(parts) == 1:
        return parts[0]
    differences, places = (torch.cat(part) for part in zip(*parts, strict=True))
    order = places.argsort(stable=True)
    return Pairs(differences[order], places[order])


def wilson(right: float, count: float) -> tuple[float, float]:
    """Bounds of the 95 % interval of a share of ``right`` in ``count`` > 0."""
    share, square = right / count, _Z**2
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    whole = 1 + square / count
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def pair_figures(log_odds: Tensor) -> dict[str, float]:
    """Figures from log odds [N] of the better answer; equal scores are half right; {} of none.

    The calibration error compares the belief in the answer that scores higher with how often it
    is the better one.
    """
    if len(log_odds) == 0:
        return {}
    right, belief = _right(log_odds), torch.sigmoid(log_odds.abs())
    low, high = wilson(float(right.sum()), len(right))
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "log_loss": float(torch.nn.functional.softplus(-log_odds).mean()),
        "calibration_error": float(losses.calibration_error(belief, right)),
        "pairs": len(log_odds),
    }


def _right(log_odds: Tensor) -> Tensor:
    return (log_odds > 0).float() + 0.5 * (log_odds == 0).float()


def reliability(log_odds: Tensor) -> list[dict[str, Any]]:
    """Ten rows for a chart: the belief in the answer that scores higher, from 0.5 to 1 in tenths
    of that, against how often it is the better one.
    """
    right, belief = _right(log_odds), torch.sigmoid(log_odds.abs())
    index = ((belief - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    rows: list[dict[str, Any]] = []
    for i in range(BINS):
        mine = index == i
        count = int(mine.sum())
        row: dict[str, Any] = {"low": 0.5 + i / (2 * BINS), "high": 0.5 + (i + 1) / (2 * BINS)}
        row |= {"pairs": count, "belief": None, "accuracy": None}
        if count:
            low, high = wilson(float(right[mine].sum()), count)
            row |= {"belief": float(belief[mine].mean()), "accuracy": float(right[mine].mean())}
            row |= {"accuracy_low": low, "accuracy_high": high}
        rows.append(row)
    return rows


# ---- by group -----------------------------------------------------------------------------------


def group_of(ranking: Ranking) -> str:
    """The labeler group; those of whom none is known are one too."""
    return NOT_STATED if ranking.labeler_group is None else ranking.labeler_group


def _confidences(rankings: Sequence[Ranking]) -> Callable[[Ranking], str]:
    """Names a ranking's confidence: the value, or its tenth of the range if there are many."""
    values = sorted({r.confidence for r in rankings if r.confidence is not None})
    width = (values[-1] - values[0]) / BINS if len(values) > BINS else 0.0

    def name(ranking: Ranking) -> str:
        value = ranking.confidence
        if value is None:
            return NOT_STATED
        if width == 0:
            return f"{value:g}"
        tenth = min(int((value - values[0]) / width), BINS - 1)
        return f"{values[0] + tenth * width:g} to {values[0] + (tenth + 1) * width:g}"

    return name


def _in_order(name: str) -> tuple[bool, float, str]:
    """Numbers by size, then names, then what is not stated."""
    try:
        return False, float(name.split(" to ")[0]), name
    except ValueError:
        return name == NOT_STATED, math.inf, name


def report(
    pairs: Pairs, rankings: Sequence[Ranking], tie_threshold: float | None = None
) -> dict[str, Any]:
    """Figures overall, by use case, confidence and labeler group, and the reliability table."""

    def figures(kept: Sequence[bool]) -> dict[str, Any]:
        found = pair_figures(losses.pair_log_odds(pairs.of(kept).differences, tie_threshold))
        return {"rankings": sum(kept), "pairs": 0} | found

    facts: dict[str, Callable[[Ranking], str]] = {
        "use_case": lambda ranking: ranking.use_case or NOT_STATED,
        "confidence": _confidences(rankings),
        "labeler_group": group_of,
    }
    by = {}
    for fact, name_of in facts.items():
        names = [name_of(ranking) for ranking in rankings]
        by[fact] = [
            {"group": group} | figures([name == group for name in names])
            for group in sorted(set(names), key=_in_order)
        ]
    return {
        "overall": figures([True] * len(rankings)),
        "by": by,
        "reliability": reliability(losses.pair_log_odds(pairs.differences, tie_threshold)),
    }


# ---- folds by labeler group ---------------------------------------------------------------------


class Fold(NamedTuple):
    """What a model that never saw one labeler group is trained on."""

    left_out: str
    train: list[Ranking]


def folds_of(train: Sequence[Ranking], valid: Sequence[Ranking]) -> list[Fold]:
    """A fold for every group that can be measured and without which something is left to learn."""
    folds = [
        Fold(name, [ranking for ranking in train if group_of(ranking) != name])
        for name in sorted({group_of(ranking) for ranking in valid})
    ]
    return [fold for fold in folds if fold.train]


def fold_figures(
    fold: Fold, pairs: Pairs, valid: Sequence[Ranking], tie_threshold: float | None = None
) -> dict[str, Any]:
    """Held-out rankings of the group that was left out, and of the others: the same prompts' split."""
    theirs = [group_of(ranking) == fold.left_out for ranking in valid]
    parts = {"held_out": theirs, "within": [not one for one in theirs]}
    odds = {
        name: losses.pair_log_odds(pairs.of(kept).differences, tie_threshold)
        for name, kept in parts.items()
    }
    figures = {
        name: {"rankings": sum(kept), "pairs": 0} | pair_figures(odds[name])
        for name, kept in parts.items()
    }
    gaps = {name: calibration_gaps(some) for name, some in odds.items()}
    return {"left_out": fold.left_out, "train_rankings": len(fold.train)} | figures | {GAPS: gaps}


def calibration_gaps(log_odds: Tensor) -> list[float]:
    """What the calibration error of these pairs and of others is made of, by bin."""
    belief = torch.sigmoid(log_odds.abs())
    found: list[float] = losses.calibration_gaps(belief, _right(log_odds)).tolist()
    return found


def folds_report(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All folds, and their pairs pooled; a pair met in several folds counts once for its interval."""
    return {
        "by": "labeler_group",
        "held_out": _pooled(folds, "held_out", 1),
        "within": _pooled(folds, "within", max(1, len(folds) - 1)),
        "folds": [{k: v for k, v in fold.items() if k != GAPS} for fold in folds],
    }


def _pooled(folds: Sequence[dict[str, Any]], name: str, times: int) -> dict[str, Any]:
    parts = [fold[name] for fold in folds]
    total = sum(part["pairs"] for part in parts)
    if total == 0:
        return {"pairs": 0}
    found = {
        figure: sum(part[figure] * part["pairs"] for part in parts if part["pairs"]) / total
        for figure in ("accuracy", "log_loss")
    }
    gaps = map(sum, zip(*(fold[GAPS][name] for fold in folds), strict=True))
    found["calibration_error"] = sum(map(abs, gaps)) / total
    low, high = wilson(found["accuracy"] * total / times, total / times)
    return found | {"accuracy_low": low, "accuracy_high": high, "pairs": total // times}


def write_report(folder: Path, plain: dict[str, Any]) -> None:
    """Write ``report.json``."""
    write_atomic(folder / REPORT, [json.dumps(plain, ensure_ascii=False, indent=1), "\n"])
