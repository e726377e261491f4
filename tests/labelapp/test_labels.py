"""What is handed in counts once, whole, and is never lost."""

import uuid

import pytest
from django.db import IntegrityError, transaction

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Demonstration, Project, Ranking, RankingPlace, User
from labelapp.services.assignments import assignment_claim_next, assignments_lapse
from labelapp.services.labels import ranking_submit, text_submit
from tests.factories import client_id, lapse, make_member, make_project, make_round, make_task

pytestmark = pytest.mark.django_db


def claimed(kind: str = "demonstration", k: int = 4) -> tuple[Project, User, Assignment]:
    project = make_project()
    make_task(make_round(project, k=k), kind)
    labeler = make_member(project)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    return project, labeler, assignment


def test_a_submit_sent_twice_counts_once() -> None:
    _, labeler, assignment = claimed()
    asked = {"assignment_id": assignment.pk, "labeler": labeler, "client_id": client_id()}
    first = text_submit(**asked, text="An answer.")
    assert text_submit(**asked, text="An answer.") == first
    assert Demonstration.objects.count() == 1
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.SUBMITTED
    assert assignment.task.submitted == 1


def test_another_submit_for_the_same_task_is_refused() -> None:
    _, labeler, assignment = claimed()
    asked = {"assignment_id": assignment.pk, "labeler": labeler, "text": "An answer."}
    text_submit(**asked, client_id=client_id())
    with pytest.raises(StateConflict, match="already"):
        text_submit(**asked, client_id=client_id())


def test_a_client_id_of_another_task_is_refused() -> None:
    project, labeler, assignment = claimed()
    make_task(assignment.task.round)
    used = client_id()
    text_submit(assignment_id=assignment.pk, labeler=labeler, text="An answer.", client_id=used)
    following = assignment_claim_next(project=project, labeler=labeler)
    assert following is not None
    with pytest.raises(BadInput, match="another task"):
        text_submit(assignment_id=following.pk, labeler=labeler, text="More.", client_id=used)


@pytest.mark.parametrize("text", ["", " \n ", "nul \x00 byte", "x" * 60_001])
def test_a_demonstration_must_be_text_of_a_bearable_length(text: str) -> None:
    _, labeler, assignment = claimed()
    with pytest.raises(BadInput):
        text_submit(assignment_id=assignment.pk, labeler=labeler, text=text, client_id=client_id())
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.LEASED


def test_a_ranking_is_stored_against_the_samples_behind_the_letters() -> None:
    _, labeler, assignment = claimed("ranking")
    shown = assignment.shown_order
    ranking_submit(
        assignment_id=assignment.pk,
        labeler=labeler,
        groups=[["C"], ["A", "D"], ["B"]],
        client_id=client_id(),
    )
    places = {p.sample_id: (p.group, p.shown) for p in RankingPlace.objects.all()}
    assert places == {shown[0]: (1, 0), shown[1]: (2, 1), shown[2]: (0, 2), shown[3]: (1, 3)}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([["A"], ["B"], ["C"]], "D not placed"),
        ([["A", "B"], ["B", "C", "D"]], "two places"),
        ([["A"], ["B"], ["C"], ["D"], ["E"]], "no answer E"),
        ([], "not placed"),
    ],
)
def test_an_incomplete_ranking_is_refused(groups: list[list[str]], says: str) -> None:
    _, labeler, assignment = claimed("ranking")
    with pytest.raises(BadInput, match=says):
        ranking_submit(
            assignment_id=assignment.pk, labeler=labeler, groups=groups, client_id=client_id()
        )
    assert not Ranking.objects.exists()


def test_empty_groups_between_places_do_not_count() -> None:
    _, labeler, assignment = claimed("ranking", k=2)
    ranking_submit(
        assignment_id=assignment.pk,
        labeler=labeler,
        groups=[["B"], [], ["A"]],
        client_id=client_id(),
    )
    assert set(RankingPlace.objects.values_list("group", flat=True)) == {0, 1}


def test_a_ranking_cannot_be_handed_in_as_a_demonstration() -> None:
    _, labeler, assignment = claimed("ranking")
    with pytest.raises(BadInput, match="asks for a ranking, not for a text"):
        text_submit(assignment_id=assignment.pk, labeler=labeler, text="Hm.", client_id=client_id())


def test_a_late_answer_counts_where_its_place_is_still_free() -> None:
    _, labeler, assignment = claimed()
    lapse(assignment)
    assignments_lapse()
    late = text_submit(
        assignment_id=assignment.pk, labeler=labeler, text="Late.", client_id=client_id()
    )
    assert late.surplus is False


def test_a_late_answer_is_kept_as_surplus_where_its_place_is_taken() -> None:
    project, labeler, assignment = claimed()
    lapse(assignment)
    assignments_lapse()
    other = make_member(project)
    assert assignment_claim_next(project=project, labeler=other) is not None
    late = text_submit(
        assignment_id=assignment.pk, labeler=labeler, text="Late.", client_id=client_id()
    )
    assert late.surplus is True
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.SURPLUS


def test_labels_of_simulated_labelers_are_marked() -> None:
    _, labeler, assignment = claimed()
    labeler.simulated = True
    labeler.save()
    label = text_submit(
        assignment_id=assignment.pk, labeler=labeler, text="Drawn.", client_id=client_id()
    )
    assert label.simulated is True


def test_the_database_refuses_two_rankings_of_one_task_by_one_labeler() -> None:
    _, labeler, assignment = claimed("ranking")
    row = {
        "project": assignment.project,
        "task": assignment.task,
        "labeler": labeler,
    }
    Ranking.objects.create(assignment=assignment, client_id=uuid.uuid4(), **row)
    with pytest.raises(IntegrityError), transaction.atomic():
        Ranking.objects.create(assignment=assignment, client_id=uuid.uuid4(), **row)
