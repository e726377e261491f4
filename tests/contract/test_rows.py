"""What the web side writes is what the trainer reads."""

import json
import subprocess
import sys

import pytest
from django.conf import settings

from labelapp.models import Demonstration, Run
from labelapp.profiles import PROFILES, stage_settings
from labelapp.run_logs import MetricsTail, metrics_lines
from labelapp.services.runs import run_queue
from labelapp.services.snapshots import snapshot_freeze
from labelapp.store import run_folder, snapshot_folder
from labelapp.trainer_gateway import FOLDER_BUSY, STOPPED, config_check, drawn_text_folder
from tests.factories import make_project, make_prompts, make_round, make_version
from tests.labelapp.test_snapshots import demonstrate, rank
from trainer.config import STAGES
from trainer.draw_text import _path
from trainer.errors import FolderBusy, Stopped
from trainer.records import (
    SCHEMA_VERSION,
    ComparisonRow,
    DemonstrationRow,
    PromptRow,
    read_manifest,
    read_rows,
)
from trainer.stage_io import open_run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def test_frozen_demonstrations_load_as_the_trainers_rows() -> None:
    project = make_project()
    label = demonstrate(project, make_round(project), "Zwölf Äpfel.\n\n\u2028And a tail.")
    (prompt,) = make_prompts(project, 1)
    uploaded = Demonstration.objects.create(
        project=project, prompt=prompt, source="upload", text="From a file."
    )
    frozen = snapshot_freeze(project=project, kind="demonstrations")
    rows = list(read_rows(snapshot_folder(frozen.name) / "rows.jsonl", DemonstrationRow))
    assert [row.completion for row in rows] == [label.text, uploaded.text]
    assert [row.source for row in rows] == ["labeler", "upload"]
    assert rows[0].prompt[0].content == label.prompt.text
    assert (rows[0].round, rows[0].instructions_version) == (1, 1)
    assert (rows[1].labeler, rows[1].round, rows[1].active_ms) == (None, None, None)


def test_frozen_rankings_load_as_the_trainers_rows_ties_included() -> None:
    project = make_project()
    rank(project, make_round(project, k=4), [["B"], ["A", "D"], ["C"]])
    frozen = snapshot_freeze(project=project, kind="comparisons")
    (row,) = read_rows(snapshot_folder(frozen.name) / "rows.jsonl", ComparisonRow)
    rank_of_letter = {"B": 0, "A": 1, "D": 1, "C": 2}
    letter_of = dict(zip(row.shown_order, "ABCD", strict=True))
    assert row.ranks() == [rank_of_letter[letter_of[output.id]] for output in row.outputs]
    assert [output.token_ids for output in row.outputs] == [(0, 2), (1, 2), (2, 2), (3, 2)]


def test_frozen_partial_rankings_load_with_their_ratings() -> None:
    project = make_project()
    round_ = make_round(project, rating_fields=["overall", "sexual"], strength_asked=True)
    said = {
        "not_judged": ["B"],
        "all_bad": True,
        "strength": 2,
        "ratings": {"A": 1, "C": 3},
        "flags": {"A": {"sexual": True}},
    }
    rank(project, round_, [["C"], ["A"], ["D"]], **said)
    frozen = snapshot_freeze(project=project, kind="comparisons")
    (row,) = read_rows(snapshot_folder(frozen.name) / "rows.jsonl", ComparisonRow)
    a, b, c, d = row.shown_order
    assert row.not_judged == (b,)
    assert {o.id: n for o, n in zip(row.judged, row.ranks(), strict=True)} == {c: 0, a: 1, d: 2}
    assert (row.all_bad, row.strength) == (True, 2.0)
    assert row.ratings == {a: 1, c: 3}
    assert row.flags == {a: {"sexual": True}, c: {"sexual": None}}


def test_frozen_prompts_and_their_manifest_load() -> None:
    project = make_project()
    make_prompts(project, 2)
    frozen = snapshot_freeze(project=project, kind="prompts")
    rows = list(read_rows(snapshot_folder(frozen.name) / "rows.jsonl", PromptRow))
    assert [row.kind for row in rows] == ["plain", "plain"]
    manifest = read_manifest(snapshot_folder(frozen.name), verify=True)
    assert (manifest.kind, manifest.rows, manifest.schema_version) == ("prompts", 2, SCHEMA_VERSION)
    assert manifest.files["rows.jsonl"] == frozen.sha256


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_profile_is_one_the_trainer_accepts(profile: str, stage: str) -> None:
    config_check(stage, stage_settings(profile, stage))


def test_the_codes_that_are_no_failure_are_the_trainers() -> None:
    assert (FolderBusy.exit_code, Stopped.exit_code) == (FOLDER_BUSY, STOPPED)


def test_figures_that_the_trainer_logs_are_followed() -> None:
    run = run_queue(project=make_project(), stage=Run.Stage.BASE)
    folder = run_folder(run.pk)
    tail = MetricsTail(run.pk)
    assert tail.read().total == 0
    with open_run(folder) as writing:
        writing.log(step=1, total=4, loss=2.5, accuracy=float("nan"))
        writing.log(step=2, total=4, loss=1.5)
    progress = tail.read()
    assert (progress.step, progress.total) == (2, 4)
    assert progress.figures == {"loss": 1.5, "accuracy": None}
    with open_run(folder) as writing:  # resumed from a checkpoint before step 2
        writing.log(step=2, total=4, loss=1.25)
    assert tail.read().figures["loss"] == 1.25
    assert [line["values"]["loss"] for line in metrics_lines(run.pk)] == [2.5, 1.25]


def test_drawn_text_lies_where_ppo_is_told_to_read_it() -> None:
    version = make_version(make_project())
    assert _path(run_folder(version.run_id), 0).parent == drawn_text_folder(version.run_id)


@pytest.mark.slow
def test_reading_the_contract_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, django; django.setup(); import labelapp.tasks, labelapp.api.urls;"
        "print(json.dumps([m for m in ('torch', 'transformers') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
