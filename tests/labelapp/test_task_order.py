"""Which task comes next: nearly finished ones, then the round's order, at a cost that does not grow."""

import random
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from labelapp.errors import BadInput, QuotaReached, StateConflict
from labelapp.models import Assignment, Project, Ranking, Round, Standing, Task, User
from labelapp.selectors.progress import labeler_progress
from labelapp.selectors.queue import queue_counts
from labelapp.services import next_task
from labelapp.services.aftercare import label_undo
from labelapp.services.assignments import (
    assignment_claim_next,
    assignment_draft_save,
    assignment_heartbeat,
    assignment_skip,
    assignments_lapse,
)
from labelapp.services.disagreement import (
    kendall_distance,
    task_priorities_set,
    tasks_compare,
)
from labelapp.services.labels import ranking_submit, text_submit
from labelapp.services.rounds import round_close, round_open
from tests.factories import lapse, make_member, make_project, make_prompts, make_round, make_task

pytestmark = pytest.mark.django_db


def claim(project: Project, labeler: User) -> Assignment:
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    return claimed


def hand_in(assignment: Assignment) -> None:
    text_submit(
        assignment_id=assignment.pk,
        labeler=assignment.labeler,
        text="It is so.",
        client_id=uuid.uuid4(),
    )


def test_a_nearly_finished_task_comes_before_the_rounds_order() -> None:
    project = make_project()
    round_ = make_round(project, overlap=2)
    first = make_task(round_, position=1, overlap=2)
    late = make_task(round_, position=9, overlap=2)
    made = Assignment.objects.create(
        project=project, task=late, labeler=make_member(project), lease_until="2030-01-01T00:00Z"
    )
    assert claim(project, make_member(project)).task == first
    Assignment.objects.filter(pk=made.pk).update(state="submitted")
    assert claim(project, make_member(project)).task == late


def test_a_place_freed_behind_the_labeler_is_found_in_the_end() -> None:
    project = make_project()
    round_ = make_round(project)
    tasks = [make_task(round_, position=position) for position in range(40)]
    early, labeler = make_member(project), make_member(project)
    held = claim(project, early)
    assert held.task == tasks[0]
    for _ in range(39):
        hand_in(claim(project, labeler))
    assert Standing.objects.get(labeler=labeler).reached > 0
    assert assignment_claim_next(project=project, labeler=labeler) is None
    assignment_skip(assignment_id=held.pk, labeler=early, reason="Not my field.")
    assert claim(project, labeler).task == tasks[0]


def test_a_labeler_goes_on_from_where_they_are() -> None:
    project = make_project()
    round_ = make_round(project, overlap=3)
    for position in range(40):
        make_task(round_, position=position, overlap=3)
    labeler = make_member(project)
    for _ in range(35):
        hand_in(claim(project, labeler))
    reached = Standing.objects.get(labeler=labeler, kind="demonstration").reached
    assert 35 - next_task.STRIDE <= reached < 35


def test_a_claim_and_the_counts_ask_the_same_questions_however_much_was_done() -> None:
    project = make_project()
    round_ = make_round(project, overlap=3)
    for position in range(60):
        make_task(round_, position=position, overlap=3)
    labeler = make_member(project)

    def asked() -> tuple[int, int]:
        with CaptureQueriesContext(connection) as claims:
            claimed = claim(project, labeler)
        with CaptureQueriesContext(connection) as counts:
            queue_counts(round_=round_, labeler=labeler)
            labeler_progress(project=project, labeler=labeler)
        hand_in(claimed)
        return len(claims), len(counts)

    first = asked()
    for _ in range(next_task.STRIDE - 2):
        hand_in(claim(project, labeler))
    assert asked()[0] == first[0] == 2
    assert first[1] <= 14


def test_the_standing_follows_what_was_handed_in() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    claimed = claim(project, labeler)
    hand_in(claimed)
    standing = Standing.objects.get(labeler=labeler)
    assert (standing.kind, standing.handed_in) == ("demonstration", 1)
    Assignment.objects.filter(pk=claimed.pk).update(state="surplus")
    standing.refresh_from_db()
    assert standing.handed_in == 1
    Assignment.objects.filter(pk=claimed.pk).update(state="lapsed")
    standing.refresh_from_db()
    assert standing.handed_in == 0


def test_a_long_queue_is_counted_to_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelapp.selectors.queue.COUNTED", 3)
    project = make_project()
    round_ = make_round(project, overlap=2)
    for position in range(5):
        make_task(round_, position=position, overlap=2)
    labeler = make_member(project)

    def shown() -> str:
        counts = queue_counts(round_=round_, labeler=labeler)
        return next(each.shown for each in counts if each.kind == "demonstration")

    assert shown() == "3+"
    for _ in range(4):
        hand_in(claim(project, labeler))
    assert shown() == "1+"  # of the first three all are done, of the rest one is not
    hand_in(claim(project, labeler))
    assert shown() == "0"


def opened(project: Project, **fields: Any) -> list[Task]:
    round_ = round_open(project=project, demonstrations_wanted=8, rankings_wanted=0, **fields)
    return list(round_.tasks.order_by("position"))


def test_sequential_is_the_order_of_the_upload_and_random_is_drawn_by_the_seed() -> None:
    orders = []
    for slug, order in (("a", "sequential"), ("b", "random"), ("c", "random")):
        project = make_project(slug)
        make_prompts(project, 8)
        make_round(project, state="closed")  # with policy and instructions
        prompts = [task.prompt_id or 0 for task in opened(project, order=order, seed=3)]
        orders.append([sorted(prompts).index(prompt) for prompt in prompts])
    assert orders[0] == list(range(8))
    assert orders[1] == orders[2] != orders[0]


def test_an_unknown_order_is_refused() -> None:
    project = make_project()
    make_prompts(project, 8)
    make_round(project, state="closed")
    with pytest.raises(BadInput, match="alphabetical"):
        opened(project, order="alphabetical")


def test_active_order_takes_the_highest_priority_but_for_a_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = make_project()
    round_ = make_round(project, order=Round.Order.ACTIVE, random_share=0.25)
    tasks = [make_task(round_, position=position) for position in range(6)]
    Task.objects.filter(pk=tasks[4].pk).update(priority=0.5)
    Task.objects.filter(pk=tasks[2].pk).update(priority=0.9)
    monkeypatch.setattr(random, "random", lambda: 0.3)
    got = [claim(project, make_member(project)).task for _ in range(3)]
    assert got == [tasks[2], tasks[4], tasks[0]]
    monkeypatch.setattr(random, "random", iter([0.2, 0.9]).__next__)
    Task.objects.filter(pk=tasks[1].pk).update(priority=0.9)
    assert claim(project, make_member(project)).task == tasks[5]


def ranked(task: Task, labeler: User, *, upside_down: bool = False) -> None:
    """A ranking of four answers by the samples' own order, or against it."""
    claimed = claim(task.project, labeler)
    assert claimed.task == task
    order = sorted(range(4), key=lambda place: claimed.shown_order[place], reverse=upside_down)
    ranking_submit(
        assignment_id=claimed.pk,
        labeler=labeler,
        groups=[["ABCD"[place]] for place in order],
        client_id=uuid.uuid4(),
    )
    task.refresh_from_db()


def test_one_more_labeler_is_asked_where_the_first_disagree() -> None:
    project = make_project()
    round_ = make_round(project, overlap=2, extra_overlap=1, disagreement=0.3)
    task = make_task(round_, "ranking", overlap=2)
    ranked(task, make_member(project))
    assert (task.overlap, task.claimable) == (2, True)
    ranked(task, make_member(project), upside_down=True)
    assert (task.overlap, task.extra, task.claimable) == (3, 1, True)
    ranked(task, make_member(project))
    assert (task.overlap, task.submitted, task.claimable) == (3, 3, False)


def test_nobody_more_is_asked_where_the_first_agree() -> None:
    project = make_project()
    task = make_task(make_round(project, overlap=2, extra_overlap=1), "ranking", overlap=2)
    for _ in range(2):
        ranked(task, make_member(project))
    assert (task.overlap, task.claimable) == (2, False)


def settle(task: Task) -> None:
    """Let ten seconds pass for its rankings."""
    past = timezone.now() - timedelta(seconds=1)
    Ranking.objects.filter(task=task).update(settles_at=past)
    Task.objects.filter(pk=task.pk, compare_at__isnull=False).update(compare_at=past)


def test_more_labelers_are_asked_only_once_the_rankings_have_settled(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10
    project = make_project()
    round_ = make_round(project, overlap=2, extra_overlap=1, disagreement=0.3, order="active")
    task = make_task(round_, "ranking", overlap=2)
    ranked(task, make_member(project))
    other = make_member(project)
    ranked(task, other, upside_down=True)
    assert tasks_compare() == 0
    task.refresh_from_db()
    assert (task.overlap, task.extra, task.priority) == (2, 0, 0)
    settle(task)
    assert [tasks_compare() for _ in range(2)] == [1, 0]
    task.refresh_from_db()
    assert (task.overlap, task.extra, task.priority, task.claimable) == (3, 1, 1, True)


def test_a_ranking_taken_back_asks_nobody_more(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10
    project = make_project()
    round_ = make_round(project, overlap=2, extra_overlap=1, disagreement=0.3, order="active")
    task = make_task(round_, "ranking", overlap=2)
    ranked(task, make_member(project))
    other = make_member(project)
    ranked(task, other, upside_down=True)
    taken_back = Assignment.objects.get(task=task, labeler=other)
    label_undo(assignment_id=taken_back.pk, labeler=other)
    settle(task)
    assert tasks_compare() == 1
    task.refresh_from_db()
    assert (task.overlap, task.extra, task.priority, task.taken) == (2, 0, 0, 2)
    ranked(task, other)  # after all, as the first
    settle(task)
    assert tasks_compare() == 1
    task.refresh_from_db()
    assert (task.overlap, task.extra, task.priority) == (2, 0, 0)


def test_a_task_that_was_closed_meanwhile_asks_nobody_more(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10
    project = make_project()
    round_ = make_round(project, overlap=2, extra_overlap=1, disagreement=0.3)
    task = make_task(round_, "ranking", overlap=2)
    for upside_down in (False, True):
        ranked(task, make_member(project), upside_down=upside_down)
    settle(task)
    round_close(round=round_)
    assert tasks_compare() == 1
    task.refresh_from_db()
    assert (task.overlap, task.compare_at) == (2, None)


def test_in_active_order_disagreement_becomes_the_priority() -> None:
    project = make_project()
    task = make_task(make_round(project, overlap=3, order="active"), "ranking", overlap=3)
    ranked(task, make_member(project))
    assert task.priority == 0
    ranked(task, make_member(project), upside_down=True)
    assert task.priority == 1
    ranked(task, make_member(project))
    assert task.priority == pytest.approx(2 / 3)


def test_kendall_distance_counts_pairs_and_half_a_tie() -> None:
    assert kendall_distance({1: 0, 2: 1, 3: 2}, {1: 0, 2: 1, 3: 2}) == 0
    assert kendall_distance({1: 0, 2: 1, 3: 2}, {1: 2, 2: 1, 3: 0}) == 1
    assert kendall_distance({1: 0, 2: 1, 3: 2}, {1: 1, 2: 0, 3: 2}) == pytest.approx(1 / 3)
    assert kendall_distance({1: 0, 2: 1}, {1: 0, 2: 0}) == 0.5


def test_an_ensembles_spread_is_written_as_priority() -> None:
    round_ = make_round(make_project(), order="active")
    task = make_task(round_)
    assert task_priorities_set(round=round_, priorities={task.pk: 0.25, 0: 1.0}) == 1
    task.refresh_from_db()
    assert task.priority == 0.25
    with pytest.raises(BadInput):
        task_priorities_set(round=round_, priorities={task.pk: -1.0})


def test_kinds_come_by_weight() -> None:
    project = make_project()
    round_ = make_round(project, kind_weights={"demonstration": 1, "ranking": 0})
    for _ in range(2):
        make_task(round_)
    make_task(round_, "ranking")
    labeler = make_member(project)
    kinds = []
    for _ in range(3):
        claimed = claim(project, labeler)
        kinds.append(claimed.task.kind)
        Assignment.objects.filter(pk=claimed.pk).update(state="submitted")
    assert kinds == ["demonstration", "demonstration", "ranking"]


def test_a_labeler_gets_no_more_than_the_quota() -> None:
    project = make_project()
    round_ = make_round(project, quota=1)
    make_task(round_), make_task(round_)
    labeler = make_member(project)
    hand_in(claim(project, labeler))
    with pytest.raises(QuotaReached, match="1 tasks"):
        assignment_claim_next(project=project, labeler=labeler)
    assert claim(project, make_member(project))


def test_a_stale_token_does_not_write_over_the_draft_of_a_later_lease() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    first = claim(project, labeler)
    lapse(first)
    assignments_lapse()
    second = claim(project, labeler)
    assert second.pk == first.pk and second.token != first.token
    saved = {"assignment_id": first.pk, "labeler": labeler, "draft": {"text": "old"}}
    with pytest.raises(StateConflict, match="another window"):
        assignment_draft_save(**saved, token=first.token)
    with pytest.raises(StateConflict, match="another window"):
        assignment_heartbeat(assignment_id=first.pk, labeler=labeler, token=first.token)
    assert assignment_draft_save(**saved, token=second.token).draft == {"text": "old"}
    hand_in(first)  # an answer is taken whichever lease it was written under


def test_who_has_done_their_share_is_told_so() -> None:
    project = make_project()
    round_ = make_round(project, quota=1)
    make_task(round_), make_task(round_)
    labeler = make_member(project)
    hand_in(claim(project, labeler))
    client = Client()
    client.force_login(labeler, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/p/garden/work/").content.decode()
    assert "You have done your share" in page
    assert 'id="next"' not in page
    answer = client.post("/p/garden/work/next/", follow=True)
    assert "which is all that one person does in round 1" in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_lapsed_task_that_is_being_handed_in_is_not_leased_again() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    held = claim(project, labeler)
    lapse(held)
    assignments_lapse()
    got: list[Assignment | None] = []

    def ask() -> None:
        try:
            got.append(assignment_claim_next(project=project, labeler=labeler))
        finally:
            connection.close()

    with transaction.atomic():
        hand_in_late = Assignment.objects.select_for_update().get(pk=held.pk)
        other_window = threading.Thread(target=ask)
        other_window.start()
        other_window.join()
        hand_in(hand_in_late)
    assert got == [None]
    held.refresh_from_db()
    assert held.state == Assignment.State.SUBMITTED
