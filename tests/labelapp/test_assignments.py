"""Work is claimed by one labeler at a time, kept while it is done, and never handed out twice."""

import threading

import pytest
from django.db import IntegrityError, connection

from labelapp.errors import BadInput, LeaseExpired, NotFound, StateConflict
from labelapp.models import Assignment, Task
from labelapp.services.assignments import (
    assignment_claim_next,
    assignment_draft_save,
    assignment_heartbeat,
    assignment_skip,
    assignments_lapse,
)
from tests.factories import lapse, make_member, make_project, make_round, make_task, make_user

pytestmark = pytest.mark.django_db


def test_tasks_come_in_the_rounds_order() -> None:
    project = make_project()
    round_ = make_round(project)
    second, first = make_task(round_, position=9), make_task(round_, position=3)
    claimed = assignment_claim_next(project=project, labeler=make_member(project))
    assert claimed is not None
    assert claimed.task == first
    other = assignment_claim_next(project=project, labeler=make_member(project))
    assert other is not None
    assert other.task == second


def test_asking_twice_gives_the_same_work() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    first = assignment_claim_next(project=project, labeler=labeler)
    assert first == assignment_claim_next(project=project, labeler=labeler)


def test_no_task_goes_to_more_labelers_than_its_overlap() -> None:
    project = make_project()
    task = make_task(make_round(project), overlap=2)
    got = [assignment_claim_next(project=project, labeler=make_member(project)) for _ in range(3)]
    assert [each is not None for each in got] == [True, True, False]
    task.refresh_from_db()
    assert (task.taken, task.submitted) == (2, 0)


def test_the_database_refuses_an_overfull_task() -> None:
    project = make_project()
    task = make_task(make_round(project), overlap=1)
    labelers = [make_member(project), make_member(project)]
    lease = {"project": project, "task": task, "lease_until": "2030-01-01T00:00:00Z"}
    Assignment.objects.create(labeler=labelers[0], **lease)
    with pytest.raises(IntegrityError, match="task_not_overfull"):
        Assignment.objects.create(labeler=labelers[1], **lease)


def test_tasks_of_a_closed_round_or_of_another_project_are_not_handed_out() -> None:
    project, other = make_project(), make_project("orchard")
    make_task(make_round(project, state="closed"))
    make_task(make_round(other))
    assert assignment_claim_next(project=project, labeler=make_member(project)) is None


def test_a_stranger_gets_nothing() -> None:
    project = make_project()
    make_task(make_round(project))
    with pytest.raises(NotFound):
        assignment_claim_next(project=project, labeler=make_user())


def test_the_kind_done_less_often_comes_first() -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_), make_task(round_), make_task(round_, "ranking")
    labeler = make_member(project)
    first = assignment_claim_next(project=project, labeler=labeler)
    assert first is not None
    assert first.task.kind == Task.Kind.DEMONSTRATION
    Assignment.objects.filter(pk=first.pk).update(state="submitted")
    second = assignment_claim_next(project=project, labeler=labeler)
    assert second is not None
    assert second.task.kind == Task.Kind.RANKING


def test_an_unknown_kind_is_refused() -> None:
    project = make_project()
    make_round(project)
    with pytest.raises(BadInput, match="essay"):
        assignment_claim_next(project=project, labeler=make_member(project), kind="essay")


def test_the_shown_order_is_drawn_once_per_labeler_and_kept() -> None:
    project = make_project()
    round_ = make_round(project, k=9)
    task = make_task(round_, "ranking", overlap=5)
    orders = []
    for _ in range(5):
        claimed = assignment_claim_next(project=project, labeler=make_member(project))
        assert claimed is not None
        orders.append(tuple(claimed.shown_order))
    assert {frozenset(order) for order in orders} == {
        frozenset(task.samples.values_list("pk", flat=True))
    }
    assert len(set(orders)) > 1


def test_a_skip_frees_the_place_and_does_not_come_back() -> None:
    project = make_project()
    task = make_task(make_round(project))
    labeler, other = make_member(project), make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    with pytest.raises(BadInput, match="why"):
        assignment_skip(assignment_id=claimed.pk, labeler=labeler, reason="  ")
    assignment_skip(assignment_id=claimed.pk, labeler=labeler, reason="Not my field.")
    assert assignment_claim_next(project=project, labeler=labeler) is None
    again = assignment_claim_next(project=project, labeler=other)
    assert again is not None
    assert again.task == task


def test_a_lapsed_lease_frees_the_place_and_keeps_the_draft() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler, other = make_member(project), make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    assignment_draft_save(assignment_id=claimed.pk, labeler=labeler, draft={"text": "So far"})
    lapse(claimed)
    assert assignments_lapse() == 1
    assert assignments_lapse() == 0
    taken_over = assignment_claim_next(project=project, labeler=other)
    assert taken_over is not None
    assert assignment_claim_next(project=project, labeler=labeler) is None
    claimed.refresh_from_db()
    assert claimed.draft == {"text": "So far"}
    with pytest.raises(LeaseExpired):
        assignment_heartbeat(assignment_id=claimed.pk, labeler=labeler)


def test_a_place_whose_lease_has_run_out_is_free_before_anybody_sweeps() -> None:
    project = make_project()
    task = make_task(make_round(project))
    away, here = make_member(project), make_member(project)
    held = assignment_claim_next(project=project, labeler=away)
    assert held is not None
    assert assignment_claim_next(project=project, labeler=here) is None
    lapse(held)
    found = assignment_claim_next(project=project, labeler=here)
    assert found is not None
    assert found.task == task
    held.refresh_from_db()
    assert held.state == Assignment.State.LAPSED


def test_a_lapsed_lease_is_taken_up_again_where_its_place_is_free() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    lapse(claimed)
    assignments_lapse()
    held = assignment_heartbeat(assignment_id=claimed.pk, labeler=labeler)
    assert held.state == Assignment.State.LEASED
    assert assignment_claim_next(project=project, labeler=labeler) == claimed


def test_only_the_owner_may_save_a_draft() -> None:
    project = make_project()
    make_task(make_round(project))
    claimed = assignment_claim_next(project=project, labeler=make_member(project))
    assert claimed is not None
    with pytest.raises(NotFound):
        assignment_draft_save(assignment_id=claimed.pk, labeler=make_member(project), draft={})


def test_active_time_is_bounded_by_the_servers_clock() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    saved = assignment_draft_save(
        assignment_id=claimed.pk, labeler=labeler, draft={}, active_ms=86_400_000
    )
    assert saved.active_ms < 60_000


def test_a_draft_after_submit_is_refused() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    Assignment.objects.filter(pk=claimed.pk).update(state="submitted")
    with pytest.raises(StateConflict):
        assignment_draft_save(assignment_id=claimed.pk, labeler=labeler, draft={})


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_twenty_labelers_at_once_overfill_nothing() -> None:
    project = make_project()
    round_ = make_round(project)
    tasks = [make_task(round_, overlap=2) for _ in range(5)]
    labelers = [make_member(project) for _ in range(20)]
    start, claims = threading.Barrier(20), []

    def claim(number: int) -> None:
        try:
            start.wait()
            claims.append(assignment_claim_next(project=project, labeler=labelers[number]))
        finally:
            connection.close()

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 20
    assert sum(each is not None for each in claims) == 10
    for task in tasks:
        assert task.assignments.count() <= 2
    given = [each for each in claims if each is not None]
    assert len(given) == Assignment.objects.count()
    assert len({(each.task_id, each.labeler_id) for each in given}) == len(given)


@pytest.mark.django_db(transaction=True)
def test_two_tabs_of_one_labeler_share_one_lease() -> None:
    project = make_project()
    round_ = make_round(project)
    for _ in range(4):
        make_task(round_)
    labeler = make_member(project)
    start, claims = threading.Barrier(8), []

    def claim() -> None:
        try:
            start.wait()
            claims.append(assignment_claim_next(project=project, labeler=labeler))
        finally:
            connection.close()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.pk for each in claims if each}) == 1
    assert len(claims) == 8
