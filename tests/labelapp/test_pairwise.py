"""A pair: its sides are drawn, one vote an assignment, taken back, corrected, locked once who wrote it is shown."""

import json
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from pytest_django import Settings

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Round, Vote
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.history import history, versions_of
from labelapp.selectors.lists import label_counts, work_by_person
from labelapp.selectors.pairs import pair_results
from labelapp.selectors.progress import labeler_progress, round_progress
from labelapp.services.aftercare import correction_open, label_undo
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit
from labelapp.services.snapshots import snapshot_freeze
from tests.factories import (
    client_id,
    make_member,
    make_task,
)
from tests.labelapp.aftercare_cast import settle
from tests.labelapp.pair_cast import claimed, client_of, pair_round, vote, voted

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


@pytest.fixture
def ten_seconds(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10


def test_the_side_depends_on_task_and_labeler_is_drawn_evenly_and_stored() -> None:
    round_ = pair_round()
    labelers = [make_member(round_.project) for _ in range(40)]
    task = make_task(round_, "pairwise", overlap=40)
    of_policy = task.samples.get(version=round_.policy)
    on_left = 0
    for labeler in labelers:
        taken = claimed(round_, labeler)
        label = vote(taken)
        assert [label.left_id, label.right_id] == taken.shown_order
        assert set(taken.shown_order) == set(task.samples.values_list("pk", flat=True))
        on_left += label.left == of_policy
    assert 8 <= on_left <= 32  # 2 in 10,000 000 draws are further out


def test_the_same_submit_gives_the_same_vote_and_another_is_refused() -> None:
    round_ = pair_round()
    make_task(round_, "pairwise")
    taken = claimed(round_)
    once = client_id()
    assert vote(taken, client_id=once) == vote(taken, "right", client_id=once)
    with pytest.raises(StateConflict):
        vote(taken, "right")
    assert Vote.objects.get().choice == "left"


def test_a_vote_is_one_of_four_and_only_on_a_pair() -> None:
    round_ = pair_round(k=2)
    make_task(round_, "pairwise")
    taken = claimed(round_)
    with pytest.raises(BadInput, match="left, right, tie, both_bad"):
        vote(taken, "A")
    with pytest.raises(BadInput, match="Pair to compare, not Ranking"):
        ranking_submit(
            assignment_id=taken.pk,
            labeler=taken.labeler,
            groups=[["A"], ["B"]],
            client_id=client_id(),
        )
    make_task(round_, "ranking")
    ranked = assignment_claim_next(
        project=round_.project, labeler=make_member(round_.project), kind="ranking"
    )
    assert ranked is not None
    with pytest.raises(BadInput, match="Ranking, not Pair to compare"):
        vote(ranked)


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("vote_choice", {"choice": "A"}),
        ("as they were shown", {"sides": "swapped"}),
        ("as they were shown", {"sides": "same"}),
        ("as they were shown", {"labeler": "another"}),
        ("answers of two versions", {"versions": "same"}),
    ],
)
def test_the_database_refuses_what_no_page_can_have_shown(
    constraint: str, changes: dict[str, str]
) -> None:
    round_ = pair_round()
    task = make_task(round_, "pairwise")
    if "versions" in changes:
        task.samples.update(version=round_.policy)
    taken = claimed(round_)
    left, right = taken.shown_order
    if changes.get("sides") == "swapped":
        left, right = right, left
    elif changes.get("sides") == "same":
        left = right
    labeler = make_member(round_.project) if "labeler" in changes else taken.labeler
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Vote.objects.create(
            project=round_.project,
            task=task,
            assignment=taken,
            labeler=labeler,
            left_id=left,
            right_id=right,
            choice=changes.get("choice", "left"),
            client_id=client_id(),
        )


def test_the_database_refuses_a_round_of_pairs_without_another_version() -> None:
    round_ = pair_round()
    for wrong in ({"opponent": None}, {"opponent": round_.policy}):
        with pytest.raises(IntegrityError, match="round_opponent"), transaction.atomic():
            Round.objects.filter(pk=round_.pk).update(**wrong)


@pytest.mark.usefixtures("ten_seconds")
def test_the_database_keeps_a_vote_as_it_was() -> None:
    label = voted()
    with pytest.raises(IntegrityError, match="never rewritten"), transaction.atomic():
        Vote.objects.update(choice="right")
    settle()
    with pytest.raises(IntegrityError, match="never deleted"), transaction.atomic():
        label.delete()


# --- afterwards


@pytest.mark.usefixtures("ten_seconds")
def test_a_fresh_vote_counts_nowhere_and_a_settled_one_everywhere() -> None:
    label = voted()
    round_, project = label.task.round, label.project

    def seen() -> dict[str, int]:
        (kind,) = round_progress(round_)
        (work,) = work_by_person(round_)
        found = pair_results(round_)
        assert found is not None
        return {
            "round page": kind.submitted,
            "round page, labels": kind.labels,
            "results": found.votes,
            "own page": labeler_progress(project=project, labeler=label.labeler).votes,
            "work by person": work.votes,
            "data page": label_counts(project).votes,
            "burn-down": sum(round_burndown(round_)["series"]["pairwise"][::-1][:1]) == 0,
        }

    assert {name for name, count in seen().items() if count} == set()
    with pytest.raises(BadInput, match="no votes to freeze"):
        snapshot_freeze(project=project, kind="votes")
    settle()
    assert {name for name, count in seen().items() if count != 1} == set()


@pytest.mark.usefixtures("ten_seconds")
def test_a_vote_is_taken_back_within_ten_seconds_with_its_choice_kept() -> None:
    label = voted("tie")
    reopened = label_undo(assignment_id=label.assignment_id, labeler=label.labeler)
    assert (reopened.state, reopened.draft) == ("leased", {"choice": "tie"})
    assert not Vote.objects.exists()
    assert vote(reopened, "both_bad").choice == "both_bad"


def test_a_correction_is_a_new_version_and_the_first_is_kept() -> None:
    label = voted()
    opened_again = correction_open(assignment_id=label.assignment_id, labeler=label.labeler)
    assert opened_again.draft == {"choice": "left"}
    second = vote(opened_again, "right")
    assert (second.version, second.corrects) == (2, label)
    assert [v.choice for v in versions_of(second.assignment)] == ["right", "left"]
    (listed,) = history(project=label.project, labeler=label.labeler, kind="pairwise")
    assert listed.versions == 2  # type: ignore[attr-defined]
    found = pair_results(label.task.round)
    assert found is not None
    assert found.votes == 1


def test_where_the_versions_are_shown_a_vote_that_counts_is_locked() -> None:
    label = voted(reveal=True)
    with pytest.raises(StateConflict, match="locked"):
        correction_open(assignment_id=label.assignment_id, labeler=label.labeler)
    Assignment.objects.filter(pk=label.assignment_id).update(correcting_since=label.created_at)
    taken = Assignment.objects.get(pk=label.assignment_id)
    with pytest.raises(IntegrityError, match="locked"), transaction.atomic():
        vote(taken, "right")


@pytest.mark.usefixtures("ten_seconds")
def test_who_wrote_which_is_shown_once_the_vote_counts_and_only_where_the_round_says_so() -> None:
    label = voted(reveal=True)
    path = f"/api/p/garden/assignments/{label.assignment_id}/versions/"
    client = client_of(label)
    assert client.get(path).status_code == 409
    settle()
    names = {"left": str(label.left.version), "right": str(label.right.version)}
    assert client.get(path).json() == names
    history_page = client.get(f"/p/garden/history/{label.assignment_id}/").content.decode()
    assert f"{names['left']} wrote A, {names['right']} wrote B." in history_page
    assert "Correct this" not in history_page
    Round.objects.update(reveal=False)
    assert client.get(path).status_code == 409
    history_page = client.get(f"/p/garden/history/{label.assignment_id}/").content.decode()
    assert "wrote A" not in history_page
    assert "Correct this" in history_page


# --- the page and the API


def test_who_wrote_an_answer_is_in_neither_page_nor_api_before_the_vote() -> None:
    with connection.cursor() as cursor:  # numbers that no attribute of the page has
        cursor.execute("SELECT setval(pg_get_serial_sequence('labelapp_sample', 'id'), 70000001)")
    round_ = pair_round(reveal=True)
    task = make_task(round_, "pairwise")
    taken = claimed(round_)
    client = Client()
    client.force_login(taken.labeler, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/p/garden/task/{taken.pk}/").content.decode()
    seen = client.get(f"/api/p/garden/assignments/{taken.pk}/").content.decode()
    for version in (round_.policy, round_.opponent):
        assert version is not None
        for said in (page, seen):
            assert str(version) not in said
            assert str(version.run_id) not in said
            assert version.sha256 not in said
    for sample in task.samples.all():
        assert f'"{sample.pk}"' not in page + seen
        assert sample.text in page
    assert json.loads(seen)["step"] == "vote"
    assert [each["letter"] for each in json.loads(seen)["answers"]] == ["A", "B"]


def test_a_pair_is_claimed_and_voted_on_through_the_api_and_sent_twice_counts_once() -> None:
    round_ = pair_round()
    make_task(round_, "pairwise")
    client = Client()
    client.force_login(
        make_member(round_.project), backend="django.contrib.auth.backends.ModelBackend"
    )

    def post(path: str, body: dict[str, Any]) -> Any:
        return client.post(f"/api/p/garden/{path}", json.dumps(body), "application/json")

    taken = post("next/", {"kind": "pairwise"}).json()["assignment"]
    where = f"assignments/{taken['id']}/"
    body = {"client_id": str(client_id()), "choice": "both_bad"}
    assert post(f"{where}submit/", body | {"choice": "neither"}).status_code == 400
    assert post(f"{where}submit/", body | {"groups": [["A"], ["B"]]}).status_code == 400
    assert post(f"{where}submit/", body | {"all_bad": True}).status_code == 400
    assert not Vote.objects.exists()
    answers = [post(f"{where}submit/", body) for _ in range(2)]
    assert [a.json()["state"] for a in answers] == ["submitted", "submitted"]
    assert Vote.objects.get().choice == "both_bad"


def test_the_work_page_offers_pairs_and_says_when_they_wait_for_answers() -> None:
    round_ = pair_round()
    labeler = make_member(round_.project)
    client = Client()
    client.force_login(labeler, backend="django.contrib.auth.backends.ModelBackend")
    make_task(round_, "pairwise", state="waiting")
    assert (
        "1 pair waits for the answers of two models"
        in client.get("/p/garden/work/").content.decode()
    )
    for _ in range(2):
        make_task(round_, "pairwise")
    assert "Compare two answers" in client.get("/p/garden/work/").content.decode()  # the welcome
    claimed(round_, labeler)
    page = client.get("/p/garden/work/").content.decode()
    assert "Compare two answers" in page
    assert "<b>1</b><span>pair to compare</span>" in page


def test_the_words_of_a_pair_are_compared() -> None:
    round_ = pair_round()
    make_task(round_, "pairwise")
    taken = claimed(round_)
    client = Client()
    client.force_login(taken.labeler, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/p/garden/task/{taken.pk}/difference/?one=A&two=B").content.decode()
    assert "<del>" in page and "<ins>" in page
