"""For ten seconds a submit can be taken back, and counts for nobody; then it is kept for ever."""

import json
import threading
import uuid
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Demonstration, Ranking, RankingPlace
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.lists import (
    label_counts,
    people_list,
    prompts_list,
    rounds_list,
    work_by_person,
)
from labelapp.selectors.progress import labeler_progress, round_progress
from labelapp.services.aftercare import label_undo
from labelapp.services.assignments import (
    assignment_claim_next,
    assignment_draft_save,
    assignments_lapse,
)
from labelapp.services.labels import text_submit
from labelapp.services.settling import undos_wait
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.trainings import training_label_counts
from tests.factories import client_id, lapse, make_member, make_task
from tests.labelapp.aftercare_cast import GROUPS, Done, handed_in, settle, submit, submit_next

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _ten_seconds(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10


def undo(done: Done) -> Assignment:
    return label_undo(assignment_id=done.assignment.pk, labeler=done.labeler)


# --- who sees it


def seen(done: Done) -> dict[str, int]:
    """One number from everything that counts labels."""
    (kind,) = round_progress(done.round)
    counted = label_counts(done.project)
    mine = labeler_progress(project=done.project, labeler=done.labeler)
    person = people_list(done.project).get(user=done.labeler)
    (work,) = work_by_person(done.round)
    (listed,) = rounds_list(done.project)
    (curve,) = round_burndown(done.round)["series"].values()
    return {
        "round page": kind.submitted,
        "round page, labels": kind.labels,
        "round list": listed.labels,  # type: ignore[attr-defined]
        "data page": counted.demonstrations + counted.rankings,
        "own page": mine.demonstrations + mine.rankings,
        "own page, today": mine.today,
        "own page, in the round": mine.in_round,
        "people": person.demonstrations + person.rankings,  # type: ignore[attr-defined]
        "work by person": work.demonstrations + work.rankings,
        "burn-down": curve[0] - curve[-1],
        "training": sum(training_label_counts(project=done.project)),
    }


@pytest.mark.parametrize("kind", ["demonstration", "ranking"])
def test_a_fresh_label_counts_nowhere_and_a_settled_one_everywhere(kind: str) -> None:
    done = handed_in(kind)
    assert {name for name, count in seen(done).items() if count} == set()
    assert round_progress(done.round)[0].in_work == 1
    settle()
    assert {name for name, count in seen(done).items() if count != 1} == set()
    assert round_progress(done.round)[0].in_work == 0


@pytest.mark.parametrize(
    ("kind", "snapshot"), [("demonstration", "demonstrations"), ("ranking", "comparisons")]
)
def test_a_freeze_takes_settled_labels_only(kind: str, snapshot: str, store: Path) -> None:
    done = handed_in(kind)
    with pytest.raises(BadInput, match="There are no"):
        snapshot_freeze(project=done.project, kind=snapshot)
    settle()
    assert snapshot_freeze(project=done.project, kind=snapshot).rows == 1
    make_task(done.round, kind)
    submit_next(done.project, done.round, done.labeler)
    assert snapshot_freeze(project=done.project, kind=snapshot).rows == 1


def test_a_prompt_counts_as_answered_once_its_label_has_settled() -> None:
    done = handed_in()
    assert not prompts_list(done.project).get().has_demonstration  # type: ignore[attr-defined]
    settle()
    assert prompts_list(done.project).get().has_demonstration  # type: ignore[attr-defined]


def test_labels_of_simulated_labelers_count_at_once(store: Path) -> None:
    done = handed_in(simulated=True)
    frozen = snapshot_freeze(project=done.project, kind="demonstrations", include_simulated=True)
    assert frozen.rows == 1
    with pytest.raises(StateConflict, match="too late"):
        undo(done)


def test_the_place_stays_taken_meanwhile() -> None:
    done = handed_in()
    other = make_member(done.project)
    assert assignment_claim_next(project=done.project, labeler=other) is None
    undo(done)
    assert assignment_claim_next(project=done.project, labeler=other) is None
    task = done.again().task
    assert (task.taken, task.submitted) == (1, 0)


# --- taking it back


def test_undo_opens_the_task_again_with_what_was_handed_in() -> None:
    done = handed_in()
    reopened = undo(done)
    assert (reopened.state, reopened.draft) == ("leased", {"text": "Tea."})
    assert not Demonstration.objects.exists()
    submit(reopened, done.labeler, "Green tea.")
    assert Demonstration.objects.get().text == "Green tea."


def test_undo_puts_every_answer_back_in_its_place() -> None:
    done = handed_in("ranking")
    assert undo(done).draft["groups"] == GROUPS
    assert not RankingPlace.objects.exists()


def test_undo_keeps_what_else_the_page_held() -> None:
    done = handed_in()
    undo(done)
    text_submit(
        assignment_id=done.assignment.pk,
        labeler=done.labeler,
        text="Tea.",
        client_id=client_id(),
        draft={"text": "older", "notes": "kept", "client_id": "old"},
    )
    assert undo(done).draft == {"text": "Tea.", "notes": "kept"}


def test_undo_asked_twice_changes_nothing_more() -> None:
    done = handed_in()
    undo(done)
    assignment_draft_save(
        assignment_id=done.assignment.pk, labeler=done.labeler, draft={"text": "Newer."}
    )
    assert undo(done).draft == {"text": "Newer."}


def test_a_submit_that_was_taken_back_and_arrives_again_is_refused() -> None:
    done = handed_in()
    sent = done.label.client_id
    assert sent is not None
    undo(done)
    with pytest.raises(StateConflict, match="took this submit back"):
        text_submit(
            assignment_id=done.assignment.pk, labeler=done.labeler, text="Tea.", client_id=sent
        )
    assert not Demonstration.objects.exists()


def test_after_ten_seconds_undo_is_refused() -> None:
    done = handed_in()
    settle()
    with pytest.raises(StateConflict, match="too late"):
        undo(done)
    assert Demonstration.objects.exists()
    assert done.again().state == Assignment.State.SUBMITTED


def test_a_task_in_work_has_nothing_to_take_back() -> None:
    done = handed_in()
    make_task(done.round)
    following = assignment_claim_next(project=done.project, labeler=done.labeler)
    assert following is not None
    with pytest.raises(StateConflict, match="Nothing of this task"):
        label_undo(assignment_id=following.pk, labeler=done.labeler)


def test_the_task_taken_back_comes_before_the_one_that_followed() -> None:
    done = handed_in()
    make_task(done.round)
    following = assignment_claim_next(project=done.project, labeler=done.labeler)
    undo(done)
    first = assignment_claim_next(project=done.project, labeler=done.labeler)
    assert first == done.assignment
    submit(done.again(), done.labeler)
    assert assignment_claim_next(project=done.project, labeler=done.labeler) == following


def test_a_surplus_label_taken_back_is_late_again() -> None:
    done = handed_in()
    make_task(done.round)
    late = assignment_claim_next(project=done.project, labeler=done.labeler)
    assert late is not None
    lapse(late)
    assignments_lapse()
    assert assignment_claim_next(project=done.project, labeler=make_member(done.project))
    assert submit(late, done.labeler).surplus
    reopened = label_undo(assignment_id=late.pk, labeler=done.labeler)
    assert reopened.state == Assignment.State.LAPSED
    assert submit(reopened, done.labeler).surplus


# --- the database


def test_the_database_refuses_to_delete_a_settled_label() -> None:
    for kind in ("demonstration", "ranking"):
        done = handed_in(kind)
        settle()
        model = type(done.label)
        with pytest.raises(IntegrityError), transaction.atomic():
            model._default_manager.filter(pk=done.label.pk).delete()
        done.project.slug = f"other-{kind}"
        done.project.save()


def test_the_database_refuses_to_rewrite_a_label() -> None:
    done = handed_in()
    with pytest.raises(IntegrityError), transaction.atomic():
        Demonstration.objects.update(text="Better.")
    ranked = submit_ranking(done)
    with pytest.raises(IntegrityError), transaction.atomic():
        RankingPlace.objects.filter(ranking=ranked).update(group=0)


def submit_ranking(done: Done) -> Ranking:
    make_task(done.round, "ranking")
    label = submit_next(done.project, done.round, done.labeler).label
    assert isinstance(label, Ranking)
    return label


# --- the pages and the API


def test_the_next_page_offers_to_take_the_last_submit_back() -> None:
    done = handed_in()
    client = done.client()
    text = client.get("/p/garden/work/").content.decode()
    assert f"/p/garden/task/{done.assignment.pk}/undo/" in text
    answer = client.post(f"/p/garden/task/{done.assignment.pk}/undo/", follow=True)
    assert answer.redirect_chain[-1][0] == f"/p/garden/task/{done.assignment.pk}/"
    assert "Taken back." in answer.content.decode()
    settle()
    assert "/undo/" not in client.get("/p/garden/work/").content.decode()


def test_too_late_on_the_page_leads_to_the_label_with_a_sentence() -> None:
    done = handed_in()
    settle()
    answer = done.client().post(f"/p/garden/task/{done.assignment.pk}/undo/", follow=True)
    assert answer.redirect_chain[-1][0] == f"/p/garden/history/{done.assignment.pk}/"
    assert "It is too late to take this back" in answer.content.decode()


def test_undo_through_the_api() -> None:
    done = handed_in()
    path = f"/api/p/garden/assignments/{done.assignment.pk}"
    client = done.client()
    first, again = (client.post(f"{path}/undo/") for _ in range(2))
    assert first.json() == again.json() == {"state": "leased", "draft": {"text": "Tea."}}
    body = {"client_id": str(uuid.uuid4()), "text": "Tea!", "draft": {"text": "Tea!", "more": 1}}
    client.post(f"{path}/submit/", json.dumps(body), content_type="application/json")
    assert client.post(f"{path}/undo/").json()["draft"] == {"text": "Tea!", "more": 1}
    submit(done.again(), done.labeler)
    settle()
    late = client.post(f"{path}/undo/")
    assert (late.status_code, late.json()["error"]["code"]) == (409, "state_conflict")


def test_nobody_takes_back_anothers_submit() -> None:
    done = handed_in()
    other = Done(done.project, done.round, make_member(done.project), done.assignment, done.label)
    assert other.client().post(f"/p/garden/task/{done.assignment.pk}/undo/").status_code == 404
    assert Demonstration.objects.exists()


def test_the_list_of_rounds_is_one_query_with_labels_unsettled() -> None:
    done = handed_in()
    with CaptureQueriesContext(connection) as queries:
        list(rounds_list(done.project))
    assert len(queries) == 1


@pytest.mark.django_db(transaction=True)
def test_a_freeze_waits_for_an_undo_under_way() -> None:
    done = handed_in()
    waited = threading.Event()

    def freeze() -> None:
        undos_wait(done.project.pk)
        waited.set()
        connection.close()

    freezing = threading.Thread(target=freeze)
    with transaction.atomic():
        undo(done)
        freezing.start()
        assert not waited.wait(0.2)
    assert waited.wait(10)
    freezing.join()
