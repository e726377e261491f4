"""The page that lists the settings lists all of them, with the defaults they have."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import Scene, reward_model, settings
from trainer import ppo, pretrain_mix
from trainer.config import SERVE, STAGES, ServeConfig
from trainer.config.ranges import IN_A_STAGE, RANGES

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
SHARED = "All stages"
DRAWING = "Base model, running text, and answers"
SECTIONS = {
    "base": [DRAWING],
    "text": [DRAWING],
    "sample": [DRAWING],
    "pretrain": ["Pretraining"],
    "sft": ["SFT"],
    "reward": ["Reward model"],
    "ppo": ["PPO with a pretraining mix"],
    "best": ["PPO, PPO-ptx, and what needs no training", DRAWING, "PPO with a pretraining mix"],
    "score": ["Scores of several reward models", DRAWING],
    SERVE: ["Serving", DRAWING],
}
"""Where the settings of a stage stand; what is not there stands under all stages."""
NAMES = {"pretraining": "pretrain", "SFT": "sft", "RM": "reward", "PPO": "ppo"}
DRAWS_AS = {"best": "sample"}
OTHER_THAN_THE_PAPER = {
    ("pretrain", "max_tokens"),
    ("pretrain", "warmup_fraction"),
    ("sft", "residual_dropout"),
    ("ppo", "ptx_tokens"),
}
IN_PROSE = {("best", "max_new_tokens"), ("score", "chunk"), ("score", "micro_tokens")}

Row = dict[str, str]


def _tables() -> dict[str, dict[str, Row]]:
    """Section -> setting -> column -> cell."""
    found: dict[str, dict[str, Row]] = {}
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        head = [line for line in lines if line.startswith("| setting |")]
        if head:
            columns = _cells(head[0])
            rows = [_cells(line) for line in lines if line.startswith("| `")]
            found[lines[0]] = {r[0].strip("`"): dict(zip(columns, r, strict=True)) for r in rows}
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


TABLES = _tables()
FIELDS = [
    (stage, field)
    for stage, config in [*STAGES.items(), (SERVE, ServeConfig)]
    for field in dataclasses.fields(config)
]


def row_of(stage: str, name: str) -> Row | None:
    rows = [
        TABLES[section][name] for section in (*SECTIONS[stage], SHARED) if name in TABLES[section]
    ]
    return rows[0] if rows else None


def said(cell: str, stage: str) -> str:
    """The value of a cell for a stage: ``1e-8, PPO 1e-5`` names one that differs."""
    plain = ""
    for part in cell.split(", "):
        name, _, value = part.rpartition(" ")
        if NAMES.get(name, name) == DRAWS_AS.get(stage, stage):
            return value
        plain = plain or ("" if name else value)
    return plain


def written(default: Any) -> Any:
    """A default as the page says it; a number as itself."""
    if default is dataclasses.MISSING or default == "":
        return ""
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return default if isinstance(default, int | float) else f"`{default}`"


@pytest.mark.parametrize(("stage", "field"), FIELDS, ids=lambda x: getattr(x, "name", x))
def test_every_setting_is_on_the_page_with_its_default(
    stage: str, field: dataclasses.Field[Any]
) -> None:
    row = row_of(stage, field.name)
    assert row is not None, f"{stage}: {field.name} is missing"
    if (stage, field.name) in IN_PROSE:
        assert re.search(rf"`{field.name}`[^|]*\({field.default}( here)?\)", PAGE)
        return
    value, default = said(row["default"], stage), written(field.default)
    if isinstance(default, int | float):
        assert float(value) == default
    else:
        assert value == default


def test_no_other_setting_is_on_the_page() -> None:
    known = {field.name for _, field in FIELDS}
    assert {name for table in TABLES.values() for name in table} - known == set()


@pytest.mark.parametrize(("stage", "field"), FIELDS, ids=lambda x: getattr(x, "name", x))
def test_the_defaults_are_the_papers_where_it_reports_a_number(
    stage: str, field: dataclasses.Field[Any]
) -> None:
    row = row_of(stage, field.name)
    paper = said((row or {}).get("paper", ""), stage)
    if not re.fullmatch(r"[\d.]+(e-?\d+)?", paper) or stage not in NAMES.values():
        return
    assert (float(paper) == field.default) is ((stage, field.name) not in OTHER_THAN_THE_PAPER)


@pytest.mark.parametrize("stage", NAMES.values())
def test_every_stage_that_trains_says_what_the_paper_has(stage: str) -> None:
    for section in (*SECTIONS[stage], SHARED):
        assert all("paper" in row for row in TABLES[section].values())
        assert all(row["meaning and source"] for row in TABLES[section].values())


def test_the_page_says_what_every_number_may_be() -> None:
    (part,) = re.findall(r"^## What a number may be\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    rows = [_cells(line) for line in part.splitlines() if "`" in line and line.startswith("|")]
    said = [(name, says) for says, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(said) == sorted((name, allowed.says) for name, allowed in RANGES.items())
    for (stage, name), allowed in IN_A_STAGE.items():
        assert f"In stage `{stage}` `{name}` is {allowed.says}" in part


def test_the_page_explains_every_figure_that_a_run_of_ppo_logs(
    tmp_path: Path, tiny_gpt2: Path
) -> None:
    """A rollout batch of a run with all that adds a figure."""
    folders = write_all(tmp_path / "data")
    folders |= {"policy": tiny_gpt2, "reward": reward_model(tiny_gpt2, tmp_path / "rm")}
    space = {"null_space_gradients": 2, "null_space_sequences": 1}
    asked = {"target_kl_stop": 1e9, "keep_best": True, "kl_control": "adaptive"}
    config = settings(tmp_path / "run", folders, against_forgetting="null_space", **space, **asked)
    scene = Scene(config)
    work = scene.work
    null_space = pretrain_mix.null_space_of(config, work.run, work.actors, work.text)
    work = work._replace(null_space=null_space)
    said = [[0.0] * len(answer) for answer in scene.rollout.answers]
    rollout = scene.rollout._replace(logprobs=said)  # as of a server
    update = ppo.optimise(work, rollout, scene.scored, scene.shaped)
    work.run.out.mkdir()
    ppo.report(work, rollout, scene.scored, scene.shaped, update)
    (line,) = work.run.lines()
    (part,) = re.findall(r"^## What PPO logs\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    rows = [_cells(row) for row in part.splitlines() if row.startswith("| `")]
    explained = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(explained) == sorted(line["values"])
    assert all(len(row) == 4 and row[2] and row[3] for row in rows)
