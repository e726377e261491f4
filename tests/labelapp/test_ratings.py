"""What is said of each answer alone: asked by the round, blank is not "no", stored with the ranking."""

import json
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from labelapp.errors import BadInput
from labelapp.forms.rounds import RoundForm
from labelapp.models import (
    RATING_FIELDS,
    Assignment,
    Ranking,
    RankingPlace,
    Rating,
    Round,
    User,
)
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit
from labelapp.services.rounds import round_open
from labelapp.services.snapshots import snapshot_freeze
from labelapp.simulation.labeler import ratings_of
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)
from tests.labelapp.steering_cast import signed_in
from tests.labelapp.test_snapshots import rows_of

pytestmark = pytest.mark.django_db

ORDER = [["B"], ["A", "D"], ["C"]]
ASKED = ["overall", "hallucination", "harmful_advice"]


def claimed(**fields: Any) -> tuple[User, Assignment]:
    project = make_project()
    make_task(make_round(project, **{"rating_fields": ASKED} | fields), "ranking")
    labeler = make_member(project)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    return labeler, assignment


def submit(labeler: User, assignment: Assignment, **said: Any) -> Ranking:
    asked = {"assignment_id": assignment.pk, "labeler": labeler, "client_id": client_id()}
    return ranking_submit(**asked, **{"groups": ORDER} | said)


def test_a_blank_field_is_stored_as_null_and_never_as_no() -> None:
    labeler, assignment = claimed()
    flags = {"A": {"hallucination": True}, "B": {"hallucination": False, "harmful_advice": None}}
    submit(labeler, assignment, ratings={"A": 2, "B": 7}, flags=flags)
    stored = {rating.place.shown: rating for rating in Rating.objects.select_related("place")}
    assert {shown: rating.overall for shown, rating in stored.items()} == {0: 2, 1: 7}
    assert stored[0].flags == {"hallucination": True, "harmful_advice": None}
    assert stored[1].flags == {"hallucination": False, "harmful_advice": None}


def test_a_submit_sent_twice_stores_its_ratings_once() -> None:
    labeler, assignment = claimed()
    asked = {"assignment_id": assignment.pk, "labeler": labeler, "client_id": client_id()}
    first, again = (ranking_submit(**asked, groups=ORDER, ratings={"A": 3}) for _ in range(2))
    assert first == again
    assert Rating.objects.count() == 1


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"ratings": {"A": 0}}, "answer A must be a whole number from 1 to 7"),
        ({"ratings": {"A": 8}}, "answer A must be"),
        ({"ratings": {"A": True}}, "answer A must be"),
        ({"ratings": {"A": "5"}}, "answer A must be"),
        ({"ratings": {"E": 5}}, "no answer E"),
        ({"flags": {"A": {"sexual": True}}}, "asks for hallucination, harmful_advice"),
        ({"flags": {"A": {"hallucination": "no"}}}, "flag hallucination of answer A must be true"),
        ({"flags": {"A": {"hallucination": 0}}}, "flag hallucination of answer A"),
        ({"flags": {"A": []}}, "flags of answer A must be an object"),
    ],
)
def test_a_wrong_rating_is_refused_and_nothing_of_it_is_stored(
    said: dict[str, Any], says: str
) -> None:
    labeler, assignment = claimed()
    with pytest.raises(BadInput, match=says):
        submit(labeler, assignment, **said)
    assert not Ranking.objects.exists()
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.LEASED


def test_ratings_may_be_left_out_unless_the_round_demands_them() -> None:
    labeler, assignment = claimed()
    submit(labeler, assignment)
    assert not Rating.objects.exists()


def test_a_round_that_demands_ratings_names_the_answers_that_lack_one() -> None:
    labeler, assignment = claimed(ratings_required=True)
    with pytest.raises(BadInput, match="B, D have none"):
        submit(labeler, assignment, ratings={"A": 4, "C": 1}, flags={"B": {"hallucination": True}})
    submit(labeler, assignment, ratings=dict.fromkeys("ABCD", 4))
    assert Rating.objects.count() == 4


def test_what_was_not_judged_needs_no_rating() -> None:
    labeler, assignment = claimed(ratings_required=True)
    submit(
        labeler, assignment, groups=[["A"], ["B"]], not_judged=["C", "D"], ratings={"A": 5, "B": 2}
    )
    assert Rating.objects.count() == 2


def test_ratings_are_refused_where_the_round_asks_for_none() -> None:
    labeler, assignment = claimed(rating_fields=[])
    with pytest.raises(BadInput, match="no overall rating"):
        submit(labeler, assignment, ratings={"A": 4})


def place() -> RankingPlace:
    labeler, assignment = claimed()
    found = submit(labeler, assignment).places.first()
    assert found is not None
    return found


@pytest.mark.parametrize(
    "wrong",
    [
        {"overall": 0},
        {"overall": 8},
        {"flags": {"hallucination": "no"}},
        {"flags": {"hallucination": 0}},
        {"flags": {"hallucination": {"a": True}}},
        {"flags": [True]},
        {"flags": None},
    ],
)
def test_the_database_refuses_a_rating_that_cannot_be(wrong: dict[str, Any]) -> None:
    there = place()
    with pytest.raises(DatabaseError), transaction.atomic():
        Rating.objects.create(place=there, **wrong)
    Rating.objects.create(place=there, overall=7, flags={"hallucination": None, "sexual": True})


def test_the_database_takes_one_rating_for_a_ranking_and_sample() -> None:
    there = place()
    Rating.objects.create(place=there, overall=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Rating.objects.create(place=there, overall=2)


@pytest.mark.parametrize(
    "fields",
    [
        {"rating_fields": ["overall", "niceness"]},
        {"rating_fields": ["sexual"], "ratings_required": True},
    ],
)
def test_the_database_refuses_a_round_that_asks_for_what_is_not_there(
    fields: dict[str, Any],
) -> None:
    project = make_project()
    with pytest.raises(IntegrityError), transaction.atomic():
        make_round(project, **fields)


# --- rounds


def ready_project() -> Any:
    project = make_project()
    make_prompts(project, 3)
    make_version(project, state="current")
    project.instructions.create(number=1, body="Be helpful.")
    return project


def test_a_round_asks_for_the_papers_fields_unless_told_otherwise() -> None:
    round_ = round_open(project=ready_project(), demonstrations_wanted=1, rankings_wanted=0)
    assert round_.rating_fields == list(RATING_FIELDS)
    assert len(RATING_FIELDS) == 1 + 11
    assert round_.ratings_required is False


def test_ratings_cannot_be_demanded_without_the_overall_quality() -> None:
    project = ready_project()
    wanted: dict[str, Any] = {"demonstrations_wanted": 1, "rankings_wanted": 0}
    with pytest.raises(BadInput, match="demanded"):
        round_open(project=project, **wanted, rating_fields=["sexual"], ratings_required=True)
    with pytest.raises(BadInput, match="'niceness'"):
        round_open(project=project, **wanted, rating_fields=["niceness"])


def test_the_form_of_a_round_has_every_field_ticked_and_takes_none_as_an_answer() -> None:
    project = ready_project()
    form = RoundForm(project=project)
    assert form["rating_fields"].value() == list(RATING_FIELDS)
    sent = {name: form[name].value() for name in form.fields if name != "rating_fields"}
    sent |= {"rankings_wanted": 1, "demonstrations_wanted": 1}
    sent |= {"instructions": project.instructions.first().pk, "overlap_tasks": ""}
    sent = {name: value for name, value in sent.items() if value is not None}
    form = RoundForm(sent, project=project)
    assert form.is_valid(), form.errors
    assert form.cleaned_data["rating_fields"] == []
    form = RoundForm(sent | {"ratings_required": "on"}, project=project)
    assert "ratings_required" in form.errors


# --- the way out and in


@pytest.mark.usefixtures("store")
def test_ratings_and_flags_leave_in_the_snapshot_with_blanks_as_null() -> None:
    labeler, assignment = claimed()
    submit(labeler, assignment, ratings={"A": 2}, flags={"B": {"hallucination": False}})
    (row,) = rows_of(snapshot_freeze(project=assignment.project, kind="comparisons"))
    a, b, *_ = row["shown_order"]
    blank = {"hallucination": None, "harmful_advice": None}
    assert row["ratings"] == {a: 2}
    assert row["flags"] == {a: blank, b: blank | {"hallucination": False}}


@pytest.mark.usefixtures("store")
def test_a_ranking_without_ratings_says_null_and_not_empty() -> None:
    labeler, assignment = claimed()
    submit(labeler, assignment)
    (row,) = rows_of(snapshot_freeze(project=assignment.project, kind="comparisons"))
    assert (row["ratings"], row["flags"]) == (None, None)


def test_the_api_says_what_is_asked_and_takes_ratings() -> None:
    project = make_project()
    make_task(make_round(project, rating_fields=ASKED, ratings_required=True), "ranking")
    client = signed_in(make_member(project))

    def post(path: str, data: object) -> Any:
        return client.post(f"/api/p/garden/{path}", json.dumps(data), "application/json")

    assignment = post("next/", {}).json()["assignment"]
    assert (assignment["rating_fields"], assignment["ratings_required"]) == (ASKED, True)
    path = f"assignments/{assignment['id']}/submit/"
    content: dict[str, Any] = {"client_id": str(client_id()), "groups": ORDER}
    refused = post(path, content)
    assert refused.status_code == 400
    assert "A, B, C, D have none" in refused.json()["error"]["message"]
    content["ratings"] = {"A": 4, "B": 6, "C": 1, "D": 4}
    content["flags"] = {"C": {"hallucination": True}}
    assert post(path, content).status_code == 200
    assert (
        Round.objects.get().tasks.get().rankings.get().places.filter(rating__overall=4).count() == 2
    )
    text = {"client_id": str(client_id()), "text": "Hm.", "ratings": {}}
    assert post(path, text).status_code == 400


def test_simulated_labelers_rate_as_they_rank() -> None:
    assert ratings_of([["B"], ["A", "D"], ["C"]]) == {"B": 7, "A": 4, "D": 4, "C": 1}
    assert ratings_of([["A", "B"]]) == {"A": 7, "B": 7}
