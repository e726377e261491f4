"""Active order with real processes: answers are drawn, reward models score them, tasks follow."""

import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from labelapp.models import Project, Round, Run, SampleScore
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.execution import run_execute
from labelapp.services.labels import ranking_submit
from labelapp.services.rounds import instructions_add, round_open
from labelapp.services.run_leases import runs_ready
from labelapp.services.scores import scoring_retry
from labelapp.store import model_folder
from tests.factories import client_id, make_member, make_prompts, make_version
from tests.recovery.conftest import ROOT, eventually, meanwhile, stage_processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900),
]

MAKE = """
import sys
from pathlib import Path
from tests.trainer.test_ppo import reward_model
parent, *folders = map(Path, sys.argv[1:])
for seed, folder in enumerate(folders):
    reward_model(parent, folder, seed=seed)
"""


@pytest.fixture
def judged(tiny_project: Project, tiny_folder: Path) -> Project:
    """Two reward models, each of a run of its own, beside the policy."""
    versions = [make_version(tiny_project, role="reward", stage="reward") for _ in range(2)]
    folders = [str(model_folder(version.run_id)) for version in versions]
    subprocess.run(
        [sys.executable, "-c", MAKE, str(tiny_folder), *folders], cwd=ROOT, check=True, timeout=300
    )
    return tiny_project


def opened(project: Project, rankings: int, k: int = 3) -> Round:
    make_prompts(project, rankings)
    instructions_add(project=project, body="Be helpful first.")
    return round_open(
        project=project,
        demonstrations_wanted=0,
        rankings_wanted=rankings,
        k=k,
        max_new_tokens=8,
        overlap=2,
        order="active",
        random_share=0.0,
    )


def carry_out(stage: str) -> Run:
    """The one run that is ready."""
    (ready,) = runs_ready()
    assert run_execute(run_id=ready, worker="test")
    run = Run.objects.get(pk=ready)
    assert run.stage == stage
    return run


def apart(round_: Round) -> dict[int, float]:
    """By task, the share of pairs of its answers that the two reward models order differently."""
    scores: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in SampleScore.objects.select_related("sample").order_by("version"):
        assert each.sample.task_id is not None
        scores[each.sample.task_id][each.sample_id].append(each.score)
    found = {}
    for task, of_samples in scores.items():
        pairs = list(combinations(of_samples.values(), 2))
        against = [(a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs]
        found[task] = sum(against) / len(pairs)
    return found


def test_tasks_come_where_the_reward_models_are_furthest_apart(judged: Project) -> None:
    round_ = opened(judged, rankings=8)
    assert carry_out("sample").state == "done"
    run = carry_out("score")
    assert (run.state, run.error) == ("done", "")
    assert (run.step, run.figures["answers"]) == (run.total, 24)
    assert runs_ready() == []
    assert SampleScore.objects.count() == 8 * 3 * 2
    priorities = dict(round_.tasks.values_list("pk", "priority"))
    assert priorities == pytest.approx(apart(round_))
    assert len(set(priorities.values())) > 1
    labeler = make_member(judged)
    claimed = assignment_claim_next(project=judged, labeler=labeler)
    assert claimed is not None
    assert priorities[claimed.task_id] == max(priorities.values())
    by_first = SampleScore.objects.filter(sample__in=claimed.shown_order).order_by("version")[:3]
    score = {each.sample_id: each.score for each in by_first}
    letters = dict(zip(claimed.shown_order, "ABC", strict=True))
    ranking_submit(
        assignment_id=claimed.pk,
        labeler=labeler,
        groups=[[letters[pk]] for pk in sorted(score, key=lambda pk: -score[pk])],
        client_id=client_id(),
    )
    claimed.task.refresh_from_db()  # the labeler is with the first model, as far from the second
    assert claimed.task.priority == pytest.approx(2 / 3 * max(priorities.values()))


def test_a_scoring_that_is_killed_stops_nobody_and_goes_on(judged: Project) -> None:
    round_ = opened(judged, rankings=24, k=4)
    assert carry_out("sample").state == "done"
    run = Run.objects.get(stage="score")
    run.settings |= {"chunk": 1}
    run.save(update_fields=["settings"])

    def kill() -> None:
        eventually(SampleScore.objects.exists, what="a score")
        stage_processes()[0].kill()

    with meanwhile(run, kill):
        run = carry_out("score")
    assert run.state == "failed"
    assert "killed" in run.error
    assert 0 < SampleScore.objects.count() < 24 * 4 * 2
    assert assignment_claim_next(project=judged, labeler=make_member(judged)) is not None
    assert scoring_retry(round=round_) == [run]
    assert carry_out("score").state == "done"
    assert SampleScore.objects.count() == 24 * 4 * 2
    assert dict(round_.tasks.values_list("pk", "priority")) == pytest.approx(apart(round_))
