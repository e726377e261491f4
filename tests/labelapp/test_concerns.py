"""A labeler flags and asks without leaving the task; admins answer; the answer is seen."""

import json
import uuid

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from labelapp.errors import BadInput, NotFound, StateConflict
from labelapp.models import Flag, Note, Project, Thread, User
from labelapp.selectors.concerns import answers_unseen, flags_open, threads_waiting
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.concerns import flag_raise, flag_resolve, note_answer, note_ask
from tests.factories import client_id, make_member, make_project, make_task
from tests.labelapp.aftercare_cast import Done, handed_in, submit_next

pytestmark = pytest.mark.django_db


@pytest.fixture
def done() -> Done:
    return handed_in("ranking")


@pytest.fixture
def admin(done: Done) -> User:
    return make_member(done.project, "admin")


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def ask(done: Done, text: str = "May I swear?") -> Note:
    return note_ask(
        assignment_id=done.assignment.pk,
        labeler=done.labeler,
        text=text,
        client_id=client_id(),
    )


def flag(done: Done, category: str = "harmful", **fields: object) -> Flag:
    return flag_raise(
        assignment_id=done.assignment.pk,
        labeler=done.labeler,
        category=category,
        **{"client_id": client_id(), **fields},  # type: ignore[arg-type]
    )


# --- flags


def test_a_flag_names_the_answer_behind_the_letter(done: Done) -> None:
    raised = flag(done, answer="B")
    assert raised.sample_id == done.assignment.shown_order[1]
    assert list(flags_open(done.project)) == [raised]


def test_a_flag_sent_twice_is_one_flag(done: Done) -> None:
    used = client_id()
    assert flag(done, client_id=used) == flag(done, client_id=used)
    with pytest.raises(StateConflict, match="flagged this already"):
        flag(done)
    flag(done, answer="A")
    assert Flag.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"category": "ugly"}, "Choose what is wrong"),
        ({"category": "other"}, "in a few words"),
        ({"category": "other", "words": "  "}, "in a few words"),
        ({"category": "harmful", "answer": "I"}, "no answer I"),
        ({"category": "harmful", "words": "x" * 501}, "at most 500"),
        ({"category": "harmful", "words": "nul \x00"}, "plain text"),
    ],
)
def test_a_flag_that_says_nothing_is_refused(done: Done, fields: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        flag(done, **fields)  # type: ignore[arg-type]
    assert not Flag.objects.exists()


def test_a_resolved_flag_leaves_the_list_and_can_be_raised_again(done: Done, admin: User) -> None:
    raised = flag(done)
    assert flag_resolve(project=done.project, pk=raised.pk, by=admin).resolved_by == admin
    assert not flags_open(done.project).exists()
    assert flag(done) != raised
    with pytest.raises(NotFound):
        flag_resolve(project=make_project("orchard"), pk=raised.pk, by=admin)


def test_the_database_refuses_other_without_words(done: Done) -> None:
    row = {"project": done.project, "assignment": done.assignment, "client_id": client_id()}
    with pytest.raises(IntegrityError), transaction.atomic():
        Flag.objects.create(category="other", **row)
    with pytest.raises(IntegrityError), transaction.atomic():
        Flag.objects.create(category="ugly", words="so", **row)


# --- questions


def test_a_question_waits_until_it_is_answered_and_the_answer_until_it_is_seen(
    done: Done, admin: User
) -> None:
    asked = ask(done)
    (waiting,) = threads_waiting(done.project)
    assert [note.text for note in waiting.notes.all()] == ["May I swear?"]
    note_answer(
        project=done.project,
        thread_id=asked.thread_id,
        by=admin,
        text="No.",
        client_id=client_id(),
    )
    assert not threads_waiting(done.project).exists()
    (answered,) = answers_unseen(project=done.project, labeler=done.labeler)
    assert [note.text for note in answered.notes.all()] == ["May I swear?", "No."]
    client = done.client()
    text = client.get("/p/garden/work/").content.decode()
    assert "No." in text
    assert admin.username not in text
    client.post(f"/p/garden/work/answers/{asked.thread_id}/seen/")
    assert answers_unseen(project=done.project, labeler=done.labeler) == []
    ask(done, "Really?")
    assert threads_waiting(done.project).exists()


def test_a_question_sent_twice_is_asked_once(done: Done) -> None:
    asked = {"assignment_id": done.assignment.pk, "labeler": done.labeler, "text": "Why?"}
    used = client_id()
    assert note_ask(**asked, client_id=used) == note_ask(**asked, client_id=used)
    assert Thread.objects.count() == Note.objects.count() == 1


@pytest.mark.parametrize("text", ["", " \n", "x" * 2001, "nul \x00"])
def test_a_question_must_say_something_bearable(done: Done, text: str) -> None:
    with pytest.raises(BadInput):
        ask(done, text)


def test_other_labelers_see_nothing_of_it(done: Done) -> None:
    asked = ask(done)
    other = make_member(done.project)
    path = f"/api/p/garden/assignments/{done.assignment.pk}"
    client = signed_in(other)
    assert client.get(f"{path}/concerns/").status_code == 404
    assert client.post(f"{path}/notes/", {"text": "x"}).status_code == 404
    assert client.get("/p/garden/concerns/").status_code == 403
    client.post(f"/p/garden/work/answers/{asked.thread_id}/seen/")
    assert client.post(f"/p/garden/concerns/{asked.thread_id}/answer/").status_code == 403


# --- through the API and the pages


def test_flags_and_questions_through_the_api(done: Done, admin: User) -> None:
    path = f"/api/p/garden/assignments/{done.assignment.pk}"
    client = done.client()

    def post(name: str, **body: object) -> tuple[int, dict]:
        sent = json.dumps({"client_id": str(uuid.uuid4()), **body})
        answer = client.post(f"{path}/{name}/", sent, content_type="application/json")
        return answer.status_code, answer.json()

    status, body = post("flags", category="personal", words="a phone number", answer="C")
    assert status == 200
    assert body["flags"] == [
        {"category": "Personal data", "words": "a phone number", "answer": "C"}
    ]
    status, body = post("notes", text="What now?")
    assert (status, [note["mine"] for note in body["notes"]]) == (200, [True])
    note_answer(
        project=done.project,
        thread_id=Thread.objects.get().pk,
        by=admin,
        text="Skip it.",
        client_id=client_id(),
    )
    body = client.get(f"{path}/concerns/").json()
    assert (body["unseen"], [note["mine"] for note in body["notes"]]) == (True, [True, False])
    assert admin.username not in json.dumps(body)
    client.post(f"{path}/concerns/")
    assert client.get(f"{path}/concerns/").json()["unseen"] is False
    assert post("flags", category="ugly")[0] == 400


def test_an_admin_answers_on_the_page_once(done: Done, admin: User) -> None:
    asked = ask(done, "<script>alert(1)</script>")
    client = signed_in(admin)
    text = client.get("/p/garden/concerns/").content.decode()
    assert "&lt;script&gt;alert(1)" in text
    address = f"/p/garden/concerns/{asked.thread_id}/answer/"
    sent = {"text": "As you like.", "client_id": str(uuid.uuid4())}
    for _ in range(2):
        client.post(address, sent)
    assert Note.objects.filter(author=admin).count() == 1
    assert "As you like." in client.get("/p/garden/concerns/?show=answered").content.decode()
    assert "Write an answer first" in client.post(address, {}, follow=True).content.decode()


def test_a_question_can_be_settled_without_an_answer(done: Done, admin: User) -> None:
    asked = ask(done)
    signed_in(admin).post(f"/p/garden/concerns/{asked.thread_id}/answer/", {"settle": "yes"})
    thread = Thread.objects.get()
    assert (thread.waiting, thread.unseen) == (False, False)


def test_an_admin_sees_what_was_flagged_and_resolves_it(done: Done, admin: User) -> None:
    raised = flag(done, answer="A", words="an address")
    client = signed_in(admin)
    text = client.get("/p/garden/concerns/?show=flags").content.decode()
    assert "an address" in text
    assert "The answer that was flagged" in text
    done_with = client.post(f"/p/garden/concerns/flags/{raised.pk}/done/", follow=True)
    assert "No open flags" in done_with.content.decode()


@pytest.mark.parametrize("show", ["questions", "flags"])
def test_the_admins_lists_are_paged_and_cost_the_same_at_any_length(
    done: Done, admin: User, show: str
) -> None:
    client = signed_in(admin)
    address = f"/p/garden/concerns/?show={show}"
    ask(done)
    flag(done)
    with CaptureQueriesContext(connection) as few:
        client.get(address)
    for _ in range(21):
        make_task(done.round)
        more = submit_next(done.project, done.round, done.labeler)
        ask(more)
        flag(more)
    with CaptureQueriesContext(connection) as many:
        text = client.get(address).content.decode()
    assert text.count('class="concern-row"') == 20
    assert "1 to 20 of 22" in text
    assert len(many) == len(few)


def test_a_project_shows_its_own_questions_only(done: Done, admin: User) -> None:
    ask(done)
    orchard: Project = make_project("orchard")
    other = signed_in(make_member(orchard, "admin"))
    assert "No open questions" in other.get("/p/orchard/concerns/").content.decode()
    thread = Thread.objects.get()
    sent = {"text": "Mine.", "client_id": str(uuid.uuid4())}
    assert other.post(f"/p/orchard/concerns/{thread.pk}/answer/", sent).status_code == 404


def test_the_task_page_says_that_an_answer_is_there(done: Done, admin: User) -> None:
    make_task(done.round)
    following = assignment_claim_next(project=done.project, labeler=done.labeler)
    assert following is not None
    now = Done(done.project, done.round, done.labeler, following, done.label)
    asked = ask(now)
    page = f"/p/garden/task/{following.pk}/"
    assert 'id="answer-here"' not in done.client().get(page).content.decode()
    note_answer(
        project=done.project,
        thread_id=asked.thread_id,
        by=admin,
        text="Yes.",
        client_id=client_id(),
    )
    assert 'id="answer-here"' in done.client().get(page).content.decode()
