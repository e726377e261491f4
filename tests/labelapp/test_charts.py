"""What the charts and figures name is what the stages log."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from labelapp.models import Run
from labelapp.templatetags.steering import duration, figure, percent
from labelapp.views.charts import CURVES, FIGURES, run_charts, stage_figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stage", CURVES)
def test_every_curve_and_figure_is_one_that_the_stage_logs(stage: str) -> None:
    files = [f"{stage}.py", *(["judge.py"] if stage == "sft" else [])]
    source = "".join((ROOT / "trainer" / file).read_text(encoding="utf-8") for file in files)
    logged = set(re.findall(r"[\"']([a-z_]+)[\"']", source))
    logged |= set(re.findall(r"^    ([a-z_]+): float", source, re.MULTILINE))
    named = {name for curves in CURVES[stage] for name, _ in curves.series}
    named |= {name for name, _, _ in FIGURES[stage]}
    assert named - logged == set()


def test_a_curve_that_only_some_runs_have_is_drawn_for_those() -> None:
    titles = [
        [str(chart.title) for chart in run_charts("garden", uuid4(), Run.Stage.SFT, figures)]
        for figures in ({"loss": 1.0}, {"loss": 1.0, "valid_reward": 0.2})
    ]
    assert titles == [["Loss"], ["Loss", "Reward"]]


def test_a_stage_shows_its_first_figures_that_have_a_value() -> None:
    found = stage_figures(Run.Stage.PPO, {"kl": 4.8, "reward": None, "pretrain_loss": 3.05, "x": 1})
    assert [(str(each.label), each.value) for each in found] == [
        ("nats KL", 4.8),
        ("pretraining loss", 3.05),
    ]
    assert stage_figures(Run.Stage.TEXT, {"loss": 1.0}) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.719, "0.719"),
        (1.8444, "1.84"),
        (123.44, "123.4"),
        (134515008, "134,515,008"),
        (0.00001, "1.0e-05"),
        (0.0, "0.000"),
        (-2.5, "-2.50"),
        ("fp32", "fp32"),
    ],
)
def test_a_figure_is_written_in_few_digits(value: object, shown: str) -> None:
    assert figure(value) == shown


def test_shares_and_times_are_written_as_people_say_them() -> None:
    assert percent(0.719) == "71.9%"
    assert percent(None) == percent("x") == "–"
    assert [duration(s) for s in (None, 12.4, 192, 7384)] == ["", "12 s", "3 min 12 s", "2 h 3 min"]
