"""Active order: reward models score a round's answers, and priorities follow where judges disagree."""

import json
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from labelapp.errors import SnapshotMismatch, StateConflict
from labelapp.models import ModelVersion, Project, Ranking, Round, Run, Sample, SampleScore, Task
from labelapp.selectors.judges import JUDGES, judges_now
from labelapp.services import priorities
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.disagreement import tasks_compare
from labelapp.services.execution import run_config_write
from labelapp.services.labels import ranking_submit
from labelapp.services.priorities import priorities_update
from labelapp.services.rounds import round_close
from labelapp.services.run_leases import run_claim, run_finish, runs_ready
from labelapp.services.runs import run_cancel, sampling_queue
from labelapp.services.samples import samples_import
from labelapp.services.scores import scores_import, scoring_retry
from labelapp.store import model_folder, run_folder
from labelapp.trainer_gateway import Outcome, SampleRow, ScoreRow
from tests.factories import make_member, make_project, make_prompts, make_round, make_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

DONE = Outcome(sha256="f" * 64, metrics={}, notes=[])
UP, DOWN, SWAPPED = (0.0, 1.0, 2.0), (2.0, 1.0, 0.0), (1.0, 0.0, 2.0)


def trained_reward_models(project: Project, count: int) -> list[ModelVersion]:
    """Reward models, each of a training of its own, oldest first."""
    closed = make_round(project, state="closed", order=Round.Order.RANDOM)
    found = []
    for _ in range(count):
        version = make_version(project, role="reward", stage="reward")
        training = project.trainings.create(round=closed, state="done", profile="test")
        Run.objects.filter(pk=version.run_id).update(training=training)
        version.run.refresh_from_db()
        found.append(version)
    return found


def sampled(project: Project, tasks: int = 3, **fields: Any) -> Run:
    """A round in active order with three answers a task, its sampling run at its end."""
    round_ = make_round(project, k=3, **{"order": Round.Order.ACTIVE, "random_share": 0.0} | fields)
    for position, prompt in enumerate(make_prompts(project, tasks)):
        Task.objects.create(
            project=project, round=round_, prompt=prompt, kind="ranking", state="waiting",
            position=position, overlap=round_.overlap,
        )  # fmt: skip
    run = sampling_queue(round=round_)
    assert run is not None
    rows = [
        SampleRow(str(task.prompt_id), index, "Yes.", (5, 2), True, 1, 1.0, 16)
        for task in round_.tasks.order_by("position")
        for index in range(3)
    ]
    samples_import(run=run, rows=rows)
    return run


def finish(run: Run) -> None:
    token = run_claim(run_id=run.pk, worker="one")
    assert token is not None
    assert run_finish(run_id=run.pk, token=token, outcome=DONE)


def scoring_of(run: Run) -> Run:
    """The score run that follows a sampling run."""
    finish(run)
    return Run.objects.get(stage="score")


def rows_of(run: Run, *judges: Mapping[int, tuple[float, ...]]) -> list[ScoreRow]:
    """Each judge's scores by position of the task."""
    assert run.round is not None
    prompts = dict(run.round.tasks.values_list("position", "prompt_id"))
    return [
        ScoreRow(str(prompts[position]), index, judge, score)
        for judge, of_task in enumerate(judges)
        for position, scores in of_task.items()
        for index, score in enumerate(scores)
    ]


def brought_in(run: Run, *judges: Mapping[int, tuple[float, ...]]) -> list[float]:
    """Import scores and set the priorities; these, in the order of the tasks."""
    scores_import(run=run, rows=rows_of(run, *judges))
    assert sum(priorities_update(run=run)) >= 0
    return priorities_of(run)


def priorities_of(run: Run) -> list[float]:
    assert run.round is not None
    return list(run.round.tasks.order_by("position").values_list("priority", flat=True))


# ---- who judges, and when ------------------------------------------------------------------------


def test_the_judges_are_the_newest_reward_models_each_of_another_training() -> None:
    project = make_project()
    old, refused, *newer = trained_reward_models(project, 5)
    ModelVersion.objects.filter(pk=refused.pk).update(state="refused")
    again = make_version(project, role="reward", stage="reward")  # of the newest one's training
    Run.objects.filter(pk=again.run_id).update(training=newer[-1].run.training_id)
    make_version(make_project("other"), role="reward", stage="reward")
    newest = [again, newer[1], newer[0]]
    assert judges_now(project) == newest
    assert len(newest) == JUDGES
    ModelVersion.objects.filter(pk=newer[0].pk).update(state="refused")
    assert judges_now(project) == [again, newer[1], old]


def test_the_end_of_the_sampling_queues_the_scoring_with_it() -> None:
    project = make_project()
    first, second = trained_reward_models(project, 2)
    run = sampled(project)
    made = scoring_of(run)
    assert (made.state, made.round, made.training) == ("queued", run.round, None)
    assert runs_ready() == [made.pk]
    run_config_write(made)
    written = json.loads((run_folder(made.pk) / "config.json").read_text())
    assert written["samples"] == str(run_folder(run.pk))
    assert written["rewards"] == [str(model_folder(each.run_id)) for each in (second, first)]
    assert {"model", "prompts", "out"} <= set(written)


@pytest.mark.parametrize(
    "without", ["reward model", "active order", "an open round", "an answer to rank"]
)
def test_nothing_is_scored_without(without: str) -> None:
    project = make_project()
    if without != "reward model":
        trained_reward_models(project, 1)
    run = sampled(project, order="random" if without == "active order" else "active")
    assert run.round is not None
    if without == "an open round":
        Round.objects.filter(pk=run.round_id).update(state="closed")
    if without == "an answer to rank":
        Sample.objects.update(task=None)
    finish(run)
    assert not Run.objects.filter(stage="score").exists()


# ---- what is brought in --------------------------------------------------------------------------


def test_scores_are_brought_in_once_however_often_they_come() -> None:
    project = make_project()
    first, second = trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    rows = rows_of(run, {0: UP, 1: UP}, {0: DOWN})
    for _ in range(2):
        scores_import(run=run, rows=rows)
    assert SampleScore.objects.count() == 9
    of_first = SampleScore.objects.filter(version=first).order_by("sample")
    assert [each.score for each in of_first] == [2.0, 1.0, 0.0]
    assert SampleScore.objects.filter(version=second, run=run).count() == 6
    nowhere = make_prompts(project, 1)[0]
    scores_import(run=run, rows=[ScoreRow(str(nowhere.pk), 0, 0, 1.0)])
    assert SampleScore.objects.count() == 9


@pytest.mark.parametrize(("judge", "score"), [(2, 0.0), (-1, 0.0), (0, float("nan"))])
def test_a_row_that_cannot_be_is_refused(judge: int, score: float) -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    (row,) = rows_of(run, {0: (1.0,)})
    with pytest.raises(SnapshotMismatch, match="cannot be"):
        scores_import(run=run, rows=[ScoreRow(row.prompt_id, 0, judge, score)])


def test_the_database_refuses_what_is_no_score() -> None:
    project, other = make_project(), make_project("other")
    (version,) = trained_reward_models(project, 1)
    (foreign,) = trained_reward_models(other, 1)
    run = scoring_of(sampled(project))
    sample = Sample.objects.earliest("pk")
    good = {"sample": sample, "version": version, "run": run, "score": 1.0}
    assert run.round is not None
    wrong: list[dict[str, Any]] = [
        {"version": run.round.policy},
        {"version": foreign},
        {"run": version.run},
        *({"score": float(each)} for each in ("nan", "inf", "-inf")),
    ]
    for change in wrong:
        with pytest.raises(IntegrityError), transaction.atomic():
            SampleScore.objects.create(**good | change)
    made = SampleScore.objects.create(**good)
    with pytest.raises(IntegrityError), transaction.atomic():
        SampleScore.objects.create(**good)
    with pytest.raises(IntegrityError), transaction.atomic():
        SampleScore.objects.filter(pk=made.pk).update(version=run.round.policy)
    with pytest.raises(IntegrityError), transaction.atomic():
        Run.objects.create(project=project, stage="score")


# ---- priorities ----------------------------------------------------------------------------------


def rank(task: Task, *, best_last: bool = False, settles_in: int = 0) -> None:
    """A fresh labeler ranks the answers in the order in which they were drawn, or against it."""
    labeler = make_member(task.project)
    Task.objects.filter(pk=task.pk).update(priority=9)  # so that it is the next one
    claimed = assignment_claim_next(project=task.project, labeler=labeler)
    assert claimed is not None and claimed.task == task
    Task.objects.filter(pk=task.pk).update(priority=task.priority)
    order = sorted(range(3), key=lambda place: claimed.shown_order[place], reverse=best_last)
    ranking_submit(
        assignment_id=claimed.pk, labeler=labeler, groups=[["ABC"[place]] for place in order],
        client_id=uuid.uuid4(),
    )  # fmt: skip
    past = timezone.now() + timedelta(seconds=settles_in or -1)
    Ranking.objects.filter(task=task).update(settles_at=past)
    Task.objects.filter(pk=task.pk, compare_at__isnull=False).update(compare_at=past)
    tasks_compare()


def test_two_reward_models_give_priorities_before_anybody_has_ranked() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    judged = brought_in(run, {0: UP, 1: UP, 2: UP}, {0: UP, 1: DOWN, 2: SWAPPED})
    assert judged == pytest.approx([0.0, 1.0, 1 / 3])
    first = assignment_claim_next(project=project, labeler=make_member(project))
    assert first is not None and first.task.position == 1


def test_one_reward_model_waits_for_the_first_settled_ranking(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10
    project = make_project()
    trained_reward_models(project, 1)
    run = scoring_of(sampled(project, overlap=3))
    assert brought_in(run, {0: DOWN, 1: DOWN, 2: DOWN}) == [0.0, 0.0, 0.0]
    assert run.round is not None
    tasks = list(run.round.tasks.order_by("position"))
    rank(tasks[0])  # the best first, as the scores have it
    rank(tasks[1], best_last=True)
    rank(tasks[2], best_last=True, settles_in=60)
    assert priorities_of(run) == [0.0, 1.0, 0.0]


def test_all_judges_count_the_same_whichever_came_last() -> None:
    """Two reward models and a labeler, one of them against the other two: (1 + 1 + 0) / 3."""
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project, tasks=2, overlap=3))
    assert run.round is not None
    early, late = run.round.tasks.order_by("position")
    rank(early)
    assert brought_in(run, {0: UP, 1: UP}, {0: DOWN, 1: DOWN}) == pytest.approx([2 / 3, 1.0])
    late.refresh_from_db()
    rank(late)
    assert priorities_of(run) == pytest.approx([2 / 3, 2 / 3])


def test_equal_scores_are_half_an_order() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project, tasks=1))
    assert brought_in(run, {0: (1.0, 1.0, 1.0)}, {0: UP}) == [0.5]


def test_reward_models_ask_no_labeler_more() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project, tasks=1, overlap=2, extra_overlap=2, disagreement=0.1))
    brought_in(run, {0: UP}, {0: DOWN})
    assert run.round is not None
    task = run.round.tasks.get()
    for _ in range(2):
        task.refresh_from_db()
        rank(task)
    task.refresh_from_db()
    assert (task.overlap, task.extra) == (2, 0)
    assert task.priority == pytest.approx(1 / 2)  # three of six pairs of judges


def test_priorities_are_written_in_parts_that_ask_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(priorities, "TOGETHER", 2)
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project, tasks=5))
    every = dict.fromkeys(range(5), UP)
    scores_import(run=run, rows=rows_of(run, every, {**every, 1: DOWN, 4: DOWN}))
    with CaptureQueriesContext(connection) as asked:
        assert list(priorities_update(run=run)) == [1, 0, 1]
    assert len(asked) <= 3 * 11 + 6
    assert list(priorities_update(run=run)) == [0, 0, 0]
    assert priorities_of(run) == [0, 1, 0, 0, 1]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_task_that_somebody_holds_is_waited_for_last_and_alone() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    every = dict.fromkeys(range(3), UP)
    scores_import(run=run, rows=rows_of(run, every, dict.fromkeys(range(3), DOWN)))
    assert run.round is not None
    first = run.round.tasks.earliest("pk")
    changed: list[int] = []

    def update() -> None:
        try:
            changed.extend(priorities_update(run=Run.objects.get(pk=run.pk)))
        finally:
            connection.close()

    with transaction.atomic():
        Task.objects.select_for_update().get(pk=first.pk)
        thread = threading.Thread(target=update)
        thread.start()
        end = time.monotonic() + 30
        while sum(priorities_of(run)) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert sorted(priorities_of(run)) == [0, 1, 1]
    thread.join(30)
    assert changed == [2, 1]
    assert priorities_of(run) == [1, 1, 1]


# ---- when it goes wrong --------------------------------------------------------------------------


def test_a_failed_scoring_stops_nobody_and_can_be_tried_again() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    assert run.round is not None
    with pytest.raises(StateConflict, match="no scoring"):
        scoring_retry(round=run.round)
    Run.objects.filter(pk=run.pk).update(state="failed", error="Out of memory.")
    assert assignment_claim_next(project=project, labeler=make_member(project)) is not None
    assert [each.state for each in scoring_retry(round=run.round)] == ["queued"]
    run_cancel(run=run)
    assert [each.pk for each in scoring_retry(round=run.round)] == [run.pk]


def test_closing_the_round_ends_the_scoring() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    assert run.round is not None
    round_close(round=run.round)
    run.refresh_from_db()
    assert run.state == "cancelled"
    with pytest.raises(StateConflict, match="no scoring"):
        scoring_retry(round=Round.objects.get(pk=run.round_id))
