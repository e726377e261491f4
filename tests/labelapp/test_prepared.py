"""What the claim and the submit ask in SQL of their own agrees with the application."""

import pytest
from pytest_django import DjangoAssertNumQueries

from labelapp.errors import BadInput
from labelapp.models import Assignment, Ranking, Task
from labelapp.prepared import Given, Prepared
from labelapp.services.assignments import assignment_claim_next, shown_shuffle
from labelapp.services.labels import ranking_submit
from tests.factories import make_member, make_project, make_round, make_task

pytestmark = pytest.mark.django_db


def test_the_database_and_the_application_draw_the_same_shown_order() -> None:
    project = make_project()
    task = make_task(make_round(project, k=9), "ranking", overlap=3)
    ids = list(task.samples.order_by("index").values_list("pk", flat=True))
    for _ in range(3):
        claimed = assignment_claim_next(project=project, labeler=make_member(project))
        assert claimed is not None
        drawn = shown_shuffle(task_id=task.pk, labeler_id=claimed.labeler_id, items=ids)
        assert claimed.shown_order == drawn


def test_a_client_id_of_another_task_is_refused_with_a_sentence() -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_, "ranking"), make_task(round_, "ranking")
    labeler = make_member(project)
    groups = [["A"], ["B"], ["C"], ["D"]]
    client_id = "11111111-1111-4111-8111-111111111111"
    first = assignment_claim_next(project=project, labeler=labeler)
    assert first is not None
    label = {"labeler": labeler, "groups": groups, "client_id": client_id}
    ranking_submit(assignment_id=first.pk, **label)
    second = assignment_claim_next(project=project, labeler=labeler)
    assert second is not None
    with pytest.raises(BadInput, match="another task"):
        ranking_submit(assignment_id=second.pk, **label)
    assert Ranking.objects.count() == 1
    assert Assignment.objects.get(pk=second.pk).state == Assignment.State.LEASED


def test_a_prepared_query_finds_what_the_same_query_finds(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    round_ = make_round(make_project(), kind_weights={"ranking": 2})
    task, other = make_task(round_, "ranking"), make_task(round_, "ranking", state="closed")
    query = Prepared(
        lambda: Task.objects.select_related("round", "prompt").filter(
            pk=Given("task"), state="open", prompt__text__contains="thing"
        )
    )
    for _ in range(3):  # the database keeps the plan from the second on
        found = query.first(task=task.pk)
        assert found == task
        with django_assert_num_queries(0):
            assert found.round.kind_weights == {"ranking": 2}
            assert found.prompt == task.prompt
    assert query.rows(task=other.pk) == []
