"""Which curves are drawn, and what is said about them. The drawing is ``static/js/charts.js``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from labelapp.models import Round, Run

Text = str | Promise


@dataclass(frozen=True)
class Chart:
    """One chart as ``_chart.html`` shows it. ``series`` are names of curves and what they are called."""

    id: str
    title: Text
    hint: Text
    url: str
    series: tuple[tuple[str, Text], ...]
    x: str = "step"
    x_label: Text = _("Step")
    percent: bool = False

    @property
    def series_json(self) -> str:
        return json.dumps([{"name": name, "label": str(label)} for name, label in self.series])


def burndown_chart(round_: Round) -> Chart:
    """Labels still wanted in a round, over time."""
    return Chart(
        id="chart-burndown",
        title=_("Labels left"),
        hint=_("How many are still wanted, over time."),
        url=reverse("round-labels", args=[round_.project.slug, round_.number]),
        series=(
            ("demonstration", _("Demonstrations")),
            ("ranking", _("Rankings")),
            ("pairwise", _("Votes on pairs")),
        ),
        x="time",
        x_label=_("Time"),
    )


@dataclass(frozen=True)
class Curves:
    """A chart of a stage: figures of ``metrics.jsonl`` that belong on one pair of axes."""

    title: Text
    hint: Text
    series: tuple[tuple[str, Text], ...]
    percent: bool = False
    only_with: str = ""
    """The figure without which it is left out; none, it is always drawn."""


CURVES: dict[str, tuple[Curves, ...]] = {
    Run.Stage.SFT: (
        Curves(
            _("Loss"),
            _("Per token of the demonstrations; held-out ones beside it."),
            (("loss", _("Train")), ("valid_loss", _("Held out"))),
        ),
        Curves(
            _("Reward"),
            _("What the earlier reward model says of answers; the best weights are kept."),
            (("valid_reward", _("Held-out prompts")),),
            only_with="valid_reward",
        ),
    ),
    Run.Stage.REWARD: (
        Curves(
            _("Loss"),
            _("Per untied pair of the rankings; held-out ones beside it."),
            (("loss", _("Train")), ("log_loss", _("Held out"))),
        ),
        Curves(
            _("Accuracy"),
            _("Share of untied pairs in which the better answer scores higher."),
            (("accuracy", _("Held out")), ("train_accuracy", _("Train"))),
            percent=True,
        ),
    ),
    Run.Stage.PPO: (
        Curves(
            _("Reward"),
            _("What the reward model says of the answers."),
            (("reward", _("Training prompts")), ("valid_reward", _("Held-out prompts"))),
        ),
        Curves(
            _("KL from SFT, per answer"),
            _("In nats: how far the policy has moved from where it started."),
            (("kl", _("Training prompts")), ("valid_kl", _("Held-out prompts"))),
        ),
        Curves(
            _("Pretraining loss"),
            _("Per token of the pretraining text; a rise is what alignment costs."),
            (("pretrain_loss", _("Loss")),),
        ),
        Curves(
            _("Policy and value loss"),
            _("What the optimiser follows."),
            (("policy_loss", _("Policy")), ("value_loss", _("Value"))),
        ),
        Curves(
            _("Length of the answers"),
            _("In tokens: a policy that games its reward often grows wordy, or silent."),
            (("response_length", _("Tokens")),),
        ),
        Curves(
            _("Entropy"),
            _("In nats per token: near 0, it says the same thing every time."),
            (("entropy", _("Entropy")),),
        ),
    ),
}
"""Charts of each stage that draws any."""

FIGURES: dict[str, tuple[tuple[str, Text, bool], ...]] = {
    Run.Stage.SFT: (("valid_loss", _("held-out loss"), False), ("loss", _("loss"), False)),
    Run.Stage.REWARD: (
        ("accuracy", _("of held-out pairs"), True),
        ("log_loss", _("held-out loss"), False),
        ("loss", _("loss"), False),
    ),
    Run.Stage.PPO: (
        ("reward", _("reward"), False),
        ("kl", _("nats KL"), False),
        ("pretrain_loss", _("pretraining loss"), False),
    ),
}
"""Figures shown beside a stage, in this order, with whether they are shares."""
SHOWN_FIGURES = 2


@dataclass(frozen=True)
class Figure:
    """A value and what it is."""

    label: Text
    value: Any
    share: bool = False


def stage_figures(stage: str, values: dict[str, Any], limit: int = SHOWN_FIGURES) -> list[Figure]:
    """The first few figures of a stage that have a value."""
    found = [
        Figure(label, values[name], share)
        for name, label, share in FIGURES.get(stage, ())
        if values.get(name) is not None
    ]
    return found[:limit]


def run_charts(slug: str, run_id: Any, stage: str, figures: Mapping[str, Any]) -> list[Chart]:
    """The charts of one run with these figures; all of them read the same answer of the series API."""
    return [
        Chart(
            id=f"chart-{stage}-{number}",
            title=curves.title,
            hint=curves.hint,
            url=reverse("api-run-series", args=[slug, run_id]),
            series=curves.series,
            percent=curves.percent,
        )
        for number, curves in enumerate(CURVES.get(stage, ()))
        if not curves.only_with or curves.only_with in figures
    ]
