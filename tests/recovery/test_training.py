"""A whole training on the tiny model: three versions, each traceable to what it was made from."""

import pytest

from labelapp.models import ModelVersion, Project, Run, Task
from labelapp.selectors.registry import DRAWN_TEXT, lineage, run_series, training_view
from labelapp.services.execution import run_execute
from labelapp.services.prompts import split_of_author
from labelapp.services.rounds import instructions_add, round_open
from labelapp.services.run_leases import runs_ready
from labelapp.services.trainings import training_start
from labelapp.store import run_folder
from tests.factories import make_prompts
from tests.recovery.test_workers import label_all
from trainer.records import read_manifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(1200),
]


def carry_out_all() -> None:
    while ready := runs_ready():
        assert run_execute(run_id=ready[0], worker="test")
        run = Run.objects.get(pk=ready[0])
        assert run.state == Run.State.DONE, f"{run.stage}: {run.error}"


def test_labels_become_an_sft_policy_a_reward_model_and_a_ppo_policy(
    tiny_project: Project,
) -> None:
    valid_author = next(f"a{i}" for i in range(99) if split_of_author(f"a{i}") == "valid")
    make_prompts(tiny_project, 8)
    make_prompts(tiny_project, 2, author=valid_author)
    instructions_add(project=tiny_project, body="Be helpful first.")
    round_ = round_open(
        project=tiny_project,
        demonstrations_wanted=10,
        rankings_wanted=10,
        k=3,
        max_new_tokens=8,
    )
    carry_out_all()
    assert not round_.tasks.exclude(state=Task.State.OPEN).exists()
    assert label_all(round_) == 20

    training = training_start(round=round_)
    carry_out_all()
    training.refresh_from_db()
    assert training.state == "done"

    made = {v.run.stage: v for v in ModelVersion.objects.filter(run__training=training)}
    assert set(made) == {"sft", "reward", "ppo"}
    parents = {
        stage: {
            parent.role: parent.sha256 for parent in read_manifest(run_folder(v.run_id)).parents
        }
        for stage, v in made.items()
    }
    assert made["sft"].sha256 in parents["reward"].values()
    assert {made["sft"].sha256, made["reward"].sha256} <= set(parents["ppo"].values())
    text = training.runs.get(stage="text")
    assert read_manifest(run_folder(text.pk)).sha256 in parents["ppo"].values()

    view = training_view(training)
    assert [stage.fraction for stage in view.stages] == [1.0] * 4
    assert all(stage.seconds and stage.figures for stage in view.stages)
    assert view.notes[0] == str(DRAWN_TEXT)
    assert sum("stands in" in note for note in view.notes) == 1
    assert any("stands in" in note for note in made["ppo"].notes)
    for stage in ("sft", "reward", "ppo"):
        series = run_series(run=made[stage].run)
        assert series["steps"]
        assert all(len(curve) == len(series["steps"]) for curve in series["series"].values())
    assert [step.run.stage for step in lineage(made["ppo"])] == [
        "ppo",
        "reward",
        "sft",
        "text",
        "base",
    ]
