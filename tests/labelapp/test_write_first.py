"""Write before you see: the server holds the answers back until the labeler's own is there."""

import json
import uuid

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Demonstration, Ranking, Round, Sample, User
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.progress import round_progress
from labelapp.services.assignments import assignment_claim_next, assignment_draft_save
from labelapp.services.labels import ranking_submit, text_submit
from tests.factories import client_id, make_member, make_project, make_round, make_task

pytestmark = pytest.mark.django_db
SECRET = "the model's own words"
ALL_TIED = [["A", "B", "C", "D"]]


@pytest.fixture
def labeler() -> User:
    return make_member(make_project())


@pytest.fixture
def claimed(labeler: User) -> Assignment:
    """A ranking task in hand, in a round that wants one's own answer first."""
    project = labeler.memberships.get().project
    make_task(make_round(project, write_first=True), "ranking")
    Sample.objects.update(text=SECRET)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    return assignment


def own(assignment: Assignment, labeler: User, **changes: object) -> Demonstration:
    asked = {
        "assignment_id": assignment.pk,
        "labeler": labeler,
        "text": "What I would say.",
        "client_id": client_id(),
    }
    return text_submit(**asked | changes)  # type: ignore[arg-type]


def test_neither_page_nor_api_has_the_answers_before_ones_own_is_written(
    claimed: Assignment, labeler: User
) -> None:
    client = Client()
    client.force_login(labeler)
    api = f"/api/p/garden/assignments/{claimed.pk}/"
    page = f"/p/garden/task/{claimed.pk}/"
    for seen in (client.get(page), client.get(api), client.post("/api/p/garden/next/")):
        assert SECRET not in seen.content.decode().replace("&#x27;", "'")
    assert client.get(api).json()["step"] == "write"
    assert client.get(api).json()["answers"] == []

    sent = {"client_id": str(uuid.uuid4()), "text": "What I would say.", "active_ms": 1}
    first, again = (
        client.post(f"{api}submit/", json.dumps(sent), content_type="application/json")
        for _ in range(2)
    )
    assert first.json() == again.json()
    assert first.json()["state"] == "written"
    assert client.get(api).json()["step"] == "rank"
    assert SECRET in client.get(page).content.decode().replace("&#x27;", "'")
    written = Demonstration.objects.get()
    assert (written.assignment_id, written.labeler) == (claimed.pk, labeler)
    assert (written.prompt, written.surplus) == (claimed.task.prompt, False)


def test_a_ranking_before_it_is_refused_by_code_and_database(
    claimed: Assignment, labeler: User
) -> None:
    asked = {"assignment_id": claimed.pk, "labeler": labeler, "groups": ALL_TIED}
    with pytest.raises(StateConflict, match="your own answer first"):
        ranking_submit(**asked, client_id=client_id())
    with pytest.raises(IntegrityError, match="of their own"), transaction.atomic():
        Ranking.objects.create(
            project=claimed.project,
            task=claimed.task,
            assignment=claimed,
            labeler=labeler,
            client_id=client_id(),
        )
    own(claimed, labeler)
    assert ranking_submit(**asked, client_id=client_id()).assignment_id == claimed.pk
    claimed.refresh_from_db()
    assert claimed.state == Assignment.State.SUBMITTED


def test_the_task_stays_in_hand_and_its_draft_begins_anew(
    claimed: Assignment, labeler: User
) -> None:
    draft = {"text": "What I", "client_id": "x"}
    assignment_draft_save(assignment_id=claimed.pk, labeler=labeler, draft=draft)
    own(claimed, labeler)
    again = assignment_claim_next(project=claimed.project, labeler=labeler)
    assert again == claimed
    assert again.draft == {}
    assert again.draft_saved_at is None


def test_one_writes_one_answer_only(claimed: Assignment, labeler: User) -> None:
    own(claimed, labeler)
    with pytest.raises(StateConflict, match="already"):
        own(claimed, labeler)
    assert Demonstration.objects.count() == 1


@pytest.mark.parametrize("text", ["", "  \n", "x" * 60_001, "a\x00b"])
def test_an_empty_or_broken_answer_shows_nothing(
    claimed: Assignment, labeler: User, text: str
) -> None:
    with pytest.raises(BadInput):
        own(claimed, labeler, text=text)
    assert claimed.owes_own_answer


def test_without_the_setting_a_ranking_takes_no_text(claimed: Assignment, labeler: User) -> None:
    Round.objects.update(write_first=False)
    with pytest.raises(BadInput, match="not for a text"):
        own(claimed, labeler)


def test_it_is_no_demonstration_task_in_the_rounds_counts(
    claimed: Assignment, labeler: User
) -> None:
    own(claimed, labeler)
    round_ = claimed.task.round
    assert [(each.kind, each.labels) for each in round_progress(round_)] == [("ranking", 0)]
    assert set(round_burndown(round_)["series"]) == {"ranking"}
