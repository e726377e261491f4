"""Live prompting: what a labeler writes is kept, answered by the round's policy, and given to them to rank."""

import fcntl
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from labelapp.errors import BadInput, QuotaReached, StateConflict
from labelapp.models import Assignment, LivePrompt, Prompt, Round, Run, Sample, Task, User
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.execution import run_execute
from labelapp.services.labels import ranking_submit
from labelapp.services.live import (
    live_answers,
    live_prompt_take,
    live_prompt_write,
    live_prompts_queue,
    policies_refresh,
)
from labelapp.services.prompts import split_of_author
from labelapp.services.rounds import round_close
from labelapp.services.samples import unanswered_tasks_close
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.versions import version_promote
from labelapp.store import device_lock, run_folder
from tests import factories
from tests.labelapp.policy_double import FakeServer

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


@pytest.fixture
def server(settings: Settings) -> Iterator[FakeServer]:
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, args=(0.02,))
    thread.start()
    settings.LABELAPP_SERVE_URL = f"http://127.0.0.1:{fake.server_port}"
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()


@pytest.fixture
def round_() -> Round:
    return factories.make_round(factories.make_project(), live_prompting=True)


@pytest.fixture
def labeler(round_: Round) -> User:
    return factories.make_member(round_.project, username="lena")


def write(round_: Round, labeler: User, text: str = "Why is the sea salt?", **fields: Any) -> Any:
    given = {"text": text, "use_case": "open_qa", "client_id": uuid.uuid4()} | fields
    return live_prompt_write(project=round_.project, labeler=labeler, **given)


def test_answers_come_by_letter_and_are_there_to_be_ranked(
    round_: Round, labeler: User, server: FakeServer
) -> None:
    live, ours = write(round_, labeler)
    assert ours
    prompt = live.prompt
    assert (prompt.kind, prompt.text, prompt.use_case) == (
        "plain",
        "Why is the sea salt?",
        "open_qa",
    )
    events = list(live_answers(live))
    assert {e["event"] for e in events} == {"text", "answer", "ready"}
    assignment = Assignment.objects.get(pk=events[-1]["assignment"])
    assert (assignment.labeler, assignment.state) == (labeler, "leased")
    texts = dict(Sample.objects.values_list("pk", "text"))
    shown = {e["letter"]: e["text"] for e in events if e["event"] == "answer"}
    assert shown == {
        letter: texts[pk] for letter, pk in zip("ABCD", assignment.shown_order, strict=True)
    }
    said = json.dumps(events)
    assert str(round_.policy.run_id) not in said
    assert "index" not in said
    task = Task.objects.get()
    assert (task.state, task.overlap, task.taken, task.kind) == ("open", 1, 1, "ranking")
    sample = Sample.objects.get(index=2)
    assert (sample.version, sample.seed, sample.temperature) == (
        round_.policy,
        round_.seed,
        round_.temperature,
    )
    assert (sample.token_ids, sample.task) == ([2, 2], task)
    assert (sample.run.stage, sample.run.state, sample.run.round) == ("live", "done", round_)
    assert server.asked[0]["seed"] == round_.seed
    assert server.asked[0]["id"] == str(prompt.pk)


def test_a_ranking_of_live_answers_counts_and_is_frozen_like_any_other(
    round_: Round, labeler: User, server: FakeServer
) -> None:
    live, _ = write(round_, labeler)
    *_, ready = live_answers(live)
    ranking_submit(
        assignment_id=uuid.UUID(ready["assignment"]),
        labeler=labeler,
        groups=[["B"], ["A", "C"], ["D"]],
        client_id=uuid.uuid4(),
    )
    task = Task.objects.get()
    assert (task.taken, task.submitted) == (1, 1)
    assert snapshot_freeze(project=round_.project, kind="comparisons").rows == 1
    live2, _ = write(round_, labeler, "And why is the sky blue?")
    list(live_answers(live2))
    assert Run.objects.filter(stage="live").count() == 1


def test_live_prompts_are_of_the_quota_too(labeler: User, server: FakeServer) -> None:
    round_ = Round.objects.get()
    first, _ = write(round_, labeler)
    *_, ready = live_answers(first)
    assignment = Assignment.objects.get(pk=ready["assignment"])
    Assignment.objects.update(state="lapsed")
    Round.objects.update(quota=1)
    taken = live_prompt_take(project=round_.project, labeler=labeler, pk=first.pk)
    assert (taken.pk, taken.state) == (assignment.pk, "leased")
    assert taken.token != assignment.token
    ranking_submit(
        assignment_id=taken.pk, labeler=labeler, groups=[[*"ABCD"]], client_id=uuid.uuid4()
    )
    with pytest.raises(QuotaReached, match="1 tasks"):
        write(round_, labeler, "And why is the sky blue?")
    assert Prompt.objects.count() == 1


@pytest.mark.parametrize("refusal", [(503, "training"), (503, "full"), (409, "other_model")])
def test_when_it_is_busy_the_prompt_waits_for_a_sampling_run(
    round_: Round, labeler: User, server: FakeServer, refusal: tuple[int, str]
) -> None:
    server.refusal = refusal
    live, _ = write(round_, labeler)
    assert list(live_answers(live)) == [{"event": "later", "why": refusal[1]}]
    task = Task.objects.get()
    assert task.state == Task.State.WAITING
    run = Run.objects.get(stage="sample")
    assert (run.state, run.round) == ("queued", round_)
    live.refresh_from_db()
    assert (live.run, live.asked_until) == (run, None)
    assert server.models == ([str(round_.policy.run_id)] if refusal[0] == 409 else [])


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:1"])
def test_when_it_is_down_the_prompt_waits_too(
    round_: Round, labeler: User, settings: Settings, address: str
) -> None:
    settings.LABELAPP_SERVE_URL = address
    live, _ = write(round_, labeler)
    (event,) = live_answers(live)
    assert event["event"] == "later"
    assert Run.objects.filter(stage="sample", state="queued").count() == 1


@pytest.mark.parametrize("lines", [1, 4, 8])
def test_a_stream_that_is_cut_leaves_no_answers_and_the_prompt_waiting(
    round_: Round, labeler: User, server: FakeServer, lines: int
) -> None:
    server.cut_after = lines
    live, _ = write(round_, labeler)
    *_, last = live_answers(live)
    assert last["event"] == "later"
    assert not Sample.objects.exists()
    assert Run.objects.filter(stage="sample").count() == 1


def test_a_labeler_who_leaves_while_answers_come_has_the_prompt_answered_later(
    round_: Round, labeler: User, server: FakeServer
) -> None:
    live, _ = write(round_, labeler)
    stream = live_answers(live)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert Run.objects.filter(stage="sample").count() == 1


def test_a_prompt_too_long_is_taken_back_to_be_changed(
    round_: Round, labeler: User, server: FakeServer
) -> None:
    server.refusal = (422, "too_long")
    live, _ = write(round_, labeler)
    assert list(live_answers(live)) == [{"event": "refused", "message": "said too_long"}]
    assert not Prompt.objects.exists()
    assert not Task.objects.exists()
    write(round_, labeler)


def test_the_same_client_id_counts_once_and_is_asked_again_only_when_nobody_asks(
    round_: Round, labeler: User, server: FakeServer
) -> None:
    client_id = uuid.uuid4()
    first, ours = write(round_, labeler, client_id=client_id)
    again, second_ours = write(round_, labeler, client_id=client_id)
    assert (again, ours, second_ours) == (first, True, False)
    LivePrompt.objects.update(asked_until=timezone.now() - timedelta(seconds=1))
    assert write(round_, labeler, client_id=client_id) == (first, True)
    list(live_answers(first))
    assert write(round_, labeler, client_id=client_id) == (first, False)
    assert (Prompt.objects.count(), Task.objects.count(), Sample.objects.count()) == (1, 1, 4)
    stranger = factories.make_member(round_.project, username="luca")
    with pytest.raises(BadInput, match="someone else"):
        write(round_, stranger, client_id=client_id)


def test_what_cannot_be_is_refused_with_a_reason(round_: Round, labeler: User) -> None:
    write(round_, labeler)
    with pytest.raises(BadInput, match="there already"):
        write(round_, labeler, "why is  the SEA salt?")
    with pytest.raises(BadInput, match="text is missing"):
        write(round_, labeler, "   ")
    with pytest.raises(BadInput, match="use_case"):
        write(round_, labeler, "x", use_case="cooking")
    factories.make_task(round_)
    assignment_claim_next(project=round_.project, labeler=labeler)
    with pytest.raises(StateConflict, match="in work"):
        write(round_, labeler, "Another one")
    assert LivePrompt.objects.count() == 1


def test_a_round_that_does_not_allow_it_takes_none_not_even_by_hand(labeler: User) -> None:
    project = labeler.memberships.get().project
    round_ = project.rounds.get()
    Round.objects.update(live_prompting=False)
    with pytest.raises(StateConflict, match="takes no prompts"):
        write(round_, labeler)
    task = factories.make_task(round_, "ranking")
    with pytest.raises(IntegrityError, match="takes no live prompts"), transaction.atomic():
        LivePrompt.objects.create(
            project=project,
            round=round_,
            labeler=labeler,
            prompt=task.prompt,
            task=task,
            client_id=uuid.uuid4(),
        )
    Round.objects.update(live_prompting=True)
    round_close(round=round_)
    with pytest.raises(StateConflict, match="No round is open"):
        write(round_, labeler)


def test_no_live_prompt_is_of_the_test_split(round_: Round, monkeypatch) -> None:
    names = (f"a{i}" for i in range(50))
    held_out = next(name for name in names if split_of_author(f"labeler-{name}") == "test")
    monkeypatch.setattr("labelapp.services.prompts.labeler_pseudonym", lambda pk: held_out)
    labeler = factories.make_member(round_.project)
    assert write(round_, labeler)[0].prompt.split == "train"


def test_a_prompt_that_came_while_a_sampling_run_went_on_waits_for_the_next(
    round_: Round, labeler: User, settings: Settings
) -> None:
    settings.LABELAPP_SERVE_URL = ""
    first, _ = write(round_, labeler, "First")
    list(live_answers(first))
    run = Run.objects.get(stage="sample")
    Run.objects.filter(pk=run.pk).update(state="done")
    second, _ = write(round_, labeler, "Second")
    Run.objects.filter(pk=run.pk).update(state="queued")
    list(live_answers(second))
    assert Run.objects.filter(stage="sample").count() == 1
    assert live_prompts_queue() == 0
    assert unanswered_tasks_close(run=run) == 1  # the first: it was in the run and got no answer
    Run.objects.filter(pk=run.pk).update(state="done")
    assert live_prompts_queue() == 1
    second.refresh_from_db()
    assert second.run is not None
    assert second.run != run
    assert live_prompts_queue() == 0


def test_what_is_being_answered_now_is_not_queued(round_: Round, labeler: User) -> None:
    write(round_, labeler)
    assert live_prompts_queue() == 0
    LivePrompt.objects.update(asked_until=timezone.now() - timedelta(seconds=1))
    assert live_prompts_queue() == 1


def test_ones_own_prompt_is_taken_once_it_is_answered(round_: Round, labeler: User) -> None:
    live, _ = write(round_, labeler)
    with pytest.raises(StateConflict):
        live_prompt_take(project=round_.project, labeler=labeler, pk=live.pk)
    factories.make_samples(live.task)
    Task.objects.update(state="open")
    taken = live_prompt_take(project=round_.project, labeler=labeler, pk=live.pk)
    assert len(taken.shown_order) == 4
    assert live_prompt_take(project=round_.project, labeler=labeler, pk=live.pk) == taken


def test_the_api_streams_lines_and_asks_for_leave(
    round_: Round, labeler: User, server: FakeServer
) -> None:
    client = Client()
    sent = {"client_id": str(uuid.uuid4()), "text": "Why?", "use_case": "chat"}
    address = f"/api/p/{round_.project.slug}/live/"
    assert client.post(address, sent, content_type="application/json").status_code == 403
    client.force_login(labeler)
    answer = client.post(address, sent, content_type="application/json")
    lines = [json.loads(line) for line in answer.getvalue().splitlines()]
    assert (answer.status_code, lines[0], lines[-1]["event"]) == (200, {"event": "kept"}, "ready")
    assert client.get(lines[-1]["url"]).status_code == 200
    again = client.post(address, sent, content_type="application/json")
    assert b'"done"' in again.getvalue()
    bad = client.post(address, sent | {"text": ""}, content_type="application/json")
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "bad_input")


def test_the_page_shows_ones_own_prompts_in_few_queries(
    round_: Round, labeler: User, django_assert_max_num_queries
) -> None:
    other = factories.make_member(round_.project, username="luca")
    for number in range(12):
        write(round_, labeler, f"Prompt number {number}")
    write(round_, other, "A secret of Luca")
    client = Client()
    client.force_login(labeler)
    with django_assert_max_num_queries(12):
        page = client.get(f"/p/{round_.project.slug}/live/").content.decode()
    assert page.count("Waiting for answers") == 12
    assert "secret of Luca" not in page
    assert str(round_.policy.run_id) not in page
    Round.objects.update(live_prompting=False)
    page = client.get(f"/p/{round_.project.slug}/live/").content.decode()
    assert "This round has no live prompting" in page
    assert 'id="prompt"' not in page


def test_promotion_tells_the_server_after_commit(
    round_: Round, server: FakeServer, settings: Settings, django_capture_on_commit_callbacks
) -> None:
    candidate = factories.make_version(round_.project, stage="sft")
    with django_capture_on_commit_callbacks(execute=True):
        version_promote(version=candidate, by=None)
        assert server.models == []
    assert server.models == [str(candidate.run_id)]
    assert server.tokens == [f"Bearer {settings.LABELAPP_SERVE_TOKEN}"]


def test_a_promotion_goes_through_when_the_server_is_down(
    round_: Round, settings: Settings, django_capture_on_commit_callbacks
) -> None:
    settings.LABELAPP_SERVE_URL = "http://127.0.0.1:1"
    candidate = factories.make_version(round_.project, stage="sft")
    with django_capture_on_commit_callbacks(execute=True):
        version_promote(version=candidate, by=None)
    candidate.refresh_from_db()
    assert candidate.state == "current"


def test_the_sweep_has_missing_models_loaded_and_no_others(
    round_: Round, server: FakeServer
) -> None:
    round_policy = str(round_.policy.run_id)
    policies_refresh()
    policies_refresh()
    assert server.models == [round_policy]
    candidate = factories.make_version(round_.project, stage="sft")
    version_promote(version=candidate, by=None)
    policies_refresh()
    policies_refresh()
    assert server.models == [round_policy, str(candidate.run_id)]


def test_a_run_holds_the_device_while_its_stage_goes_on(
    round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> bool:
        with device_lock().open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    held: list[bool] = []

    def train(self: object, run: Run) -> int:
        held.append(busy())
        return 1

    monkeypatch.setattr("labelapp.services.execution._Execution._train", train)
    run = Run.objects.create(project=round_.project, stage="text")
    run_folder(run.pk).mkdir(parents=True)
    assert run_execute(run_id=run.pk, worker="test")
    assert held == [True]
    assert not busy()
