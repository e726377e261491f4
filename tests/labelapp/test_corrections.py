"""A label is corrected by a new version while its round is open; the first is kept."""

import json
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from labelapp.errors import StateConflict
from labelapp.models import Assignment, Demonstration, Ranking, Snapshot
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.exports import export_lines
from labelapp.selectors.lists import label_counts
from labelapp.selectors.progress import round_progress
from labelapp.services.aftercare import correction_drop, correction_open, label_undo
from labelapp.services.assignments import assignment_draft_save
from labelapp.services.labels import ranking_submit, text_submit
from labelapp.services.rounds import round_close
from labelapp.services.snapshots import snapshot_freeze
from tests.factories import client_id, make_member, make_task
from tests.labelapp.aftercare_cast import Done, handed_in, settle, submit, submit_next

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _ten_seconds(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10


def settled(kind: str = "demonstration") -> Done:
    done = handed_in(kind)
    settle()
    return done


def opened(done: Done) -> Assignment:
    return correction_open(assignment_id=done.assignment.pk, labeler=done.labeler)


def corrected(done: Done, text: str = "Green tea.") -> Demonstration:
    label = submit(opened(done), done.labeler, text)
    assert isinstance(label, Demonstration)
    return label


def rows(snapshot: Snapshot, form: str = "native") -> list[dict[str, object]]:
    lines = b"".join(export_lines(snapshot=snapshot, format_name=form)).splitlines()
    return [json.loads(line) for line in lines]


def test_a_correction_is_the_next_version_and_the_first_is_kept() -> None:
    done = settled()
    assert opened(done).draft == {"text": "Tea."}
    corrected(done)
    settle()
    corrected(done, "White tea.")
    first, second, third = Demonstration.objects.order_by("version")
    assert [label.text for label in (first, second, third)] == ["Tea.", "Green tea.", "White tea."]
    assert [label.version for label in (first, second, third)] == [1, 2, 3]
    assert (first.corrects, second.corrects, third.corrects) == (None, first, first)


def test_a_ranking_is_corrected_too() -> None:
    done = settled("ranking")
    again = ranking_submit(
        assignment_id=opened(done).pk,
        labeler=done.labeler,
        groups=[["A"], ["B"], ["C"], ["D"]],
        client_id=client_id(),
    )
    assert (again.version, again.corrects) == (2, done.label)
    assert Ranking.objects.count() == 2


def test_a_freeze_takes_the_latest_settled_version_and_exports_say_which(store: Path) -> None:
    done = settled()
    corrected(done)
    before = snapshot_freeze(project=done.project, kind="demonstrations")
    assert [(row["completion"], row["version"]) for row in rows(before)] == [("Tea.", 1)]
    settle()
    after = snapshot_freeze(project=done.project, kind="demonstrations")
    assert [(row["completion"], row["version"]) for row in rows(after)] == [("Green tea.", 2)]
    assert [row["version"] for row in rows(after, "trl-prompt-completion")] == [2]


def test_a_correction_counts_once_and_at_the_time_of_the_first() -> None:
    done = settled()
    corrected(done)
    settle()
    (kind,) = round_progress(done.round)
    assert (kind.submitted, kind.labels) == (1, 1)
    assert label_counts(done.project).demonstrations == 1
    (curve,) = round_burndown(done.round)["series"].values()
    assert curve[0] - curve[-1] == 1


def test_a_correction_can_be_taken_back_and_the_first_goes_on_counting() -> None:
    done = settled()
    corrected(done)
    reopened = label_undo(assignment_id=done.assignment.pk, labeler=done.labeler)
    assert (reopened.state, reopened.draft) == ("submitted", {"text": "Green tea."})
    assert reopened.correcting_since is not None
    assert Demonstration.objects.get().version == 1
    assert round_progress(done.round)[0].submitted == 1


def test_a_correction_sent_twice_counts_once() -> None:
    done = settled()
    opened(done)
    asked = {"assignment_id": done.assignment.pk, "labeler": done.labeler, "text": "Once."}
    used = client_id()
    first = text_submit(**asked, client_id=used)
    assert text_submit(**asked, client_id=used) == first
    with pytest.raises(StateConflict, match="already"):
        text_submit(**asked, client_id=client_id())


def test_a_correction_keeps_its_draft_until_it_is_dropped() -> None:
    done = settled()
    asked = {"assignment_id": done.assignment.pk, "labeler": done.labeler}
    opened(done)
    assignment_draft_save(**asked, draft={"text": "Half"})
    assert opened(done).draft == {"text": "Half"}
    correction_drop(**asked)
    with pytest.raises(StateConflict, match="closed"):
        assignment_draft_save(**asked, draft={"text": "More"})
    assert opened(done).draft == {"text": "Tea."}


def test_a_label_that_can_be_taken_back_is_not_corrected() -> None:
    with pytest.raises(StateConflict, match="take it back instead"):
        opened(handed_in())


def test_a_closed_round_is_not_corrected() -> None:
    done = settled()
    opened(done)
    round_close(round=done.round)
    with pytest.raises(StateConflict, match="round is closed"):
        submit(done.again(), done.labeler)
    correction_drop(assignment_id=done.assignment.pk, labeler=done.labeler)
    with pytest.raises(StateConflict, match="round is closed"):
        opened(done)


# --- the database


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 3, "corrects": "first"},
        {"version": 2, "corrects": None},
        {"version": 1, "corrects": "first"},
        {"version": 1, "corrects": None},
        {"version": 2, "corrects": "another"},
    ],
)
def test_the_database_refuses_a_chain_with_a_gap_or_a_fork(wrong: dict[str, object]) -> None:
    done = settled()
    make_task(done.round)
    another = submit_next(done.project, done.round, done.labeler).label
    links = {"first": done.label, "another": another, None: None}
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(done, version=wrong["version"], corrects=links[wrong["corrects"]])  # type: ignore[index]
    insert(done, version=2, corrects=done.label)


def test_the_database_refuses_a_correction_in_a_closed_round() -> None:
    done = settled()
    round_close(round=done.round)
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(done, version=2, corrects=done.label)


def insert(done: Done, **fields: object) -> None:
    Demonstration.objects.create(
        project=done.project,
        prompt=done.assignment.task.prompt,
        assignment=done.assignment,
        labeler=done.labeler,
        source="labeler",
        text="By hand.",
        client_id=client_id(),
        **fields,
    )


# --- the pages


def test_the_history_lists_what_was_handed_in_by_kind() -> None:
    done = settled()
    make_task(done.round, "ranking")
    submit_next(done.project, done.round, done.labeler)
    settle()
    corrected(done)
    client = done.client()
    text = client.get("/p/garden/history/").content.decode()
    assert text.count('class="past-task"') == 2
    assert "Version 2" in text
    for kind, says in (("demonstration", "Written"), ("ranking", "Ranked")):
        some = client.get(f"/p/garden/history/?kind={kind}").content.decode()
        assert some.count('class="past-task"') == 1
        assert f">{says}</span>" in some
    other = make_member(done.project)
    client.force_login(other, backend="django.contrib.auth.backends.ModelBackend")
    assert "Nothing handed in yet" in client.get("/p/garden/history/").content.decode()


def test_the_history_is_paged_and_costs_the_same_at_any_length() -> None:
    done = settled()
    client = done.client()
    with CaptureQueriesContext(connection) as one:
        client.get("/p/garden/history/")
    for _ in range(26):
        make_task(done.round)
        submit_next(done.project, done.round, done.labeler)
    with CaptureQueriesContext(connection) as many:
        text = client.get("/p/garden/history/").content.decode()
    assert text.count('class="past-task"') == 25
    assert "1 to 25 of 27" in text
    assert len(many) == len(one)


def test_a_label_is_corrected_from_its_page() -> None:
    done = settled()
    client = done.client()
    page = f"/p/garden/history/{done.assignment.pk}/"
    assert "Correct this" in client.get(page).content.decode()
    answer = client.post(f"/p/garden/task/{done.assignment.pk}/correct/", follow=True)
    assert answer.redirect_chain[-1][0] == f"/p/garden/task/{done.assignment.pk}/"
    text = answer.content.decode()
    assert "The earlier version is kept." in text
    assert '"correcting": true' in text
    corrected(done)
    text = client.get(page).content.decode()
    assert "Version 2" in text
    assert "Tea." in text
    assert "Green tea." in text
    assert "Correct this" not in text
    settle()
    assert "Correct this" in client.get(page).content.decode()


def test_a_closed_round_offers_no_correction() -> None:
    done = settled()
    round_close(round=done.round)
    client = done.client()
    page = f"/p/garden/history/{done.assignment.pk}/"
    text = client.get(page).content.decode()
    assert "Correct this" not in text
    assert "the label stays as it is" in text
    answer = client.post(f"/p/garden/task/{done.assignment.pk}/correct/", follow=True)
    assert answer.redirect_chain[-1][0] == page
    assert "The round is closed" in answer.content.decode()


def test_a_ranking_reads_as_it_was_ranked() -> None:
    done = settled("ranking")
    text = done.client().get(f"/p/garden/history/{done.assignment.pk}/").content.decode()
    order = text[text.index('class="order"') : text.index("</p>", text.index('class="order"'))]
    letters = [each for each in order if each in "ABCD"]
    assert letters == ["C", "A", "D", "B"]
    assert order.count("&gt;") == 2


def test_corrections_through_the_api() -> None:
    done = settled()
    path = f"/api/p/garden/assignments/{done.assignment.pk}/correction/"
    client = done.client()
    assert client.post(path).json() == {"state": "submitted", "draft": {"text": "Tea."}}
    assert client.delete(path).json() == {"state": "submitted"}
    other = make_member(done.project)
    client.force_login(other, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(path).status_code == 404
