"""Simulated labelers over real HTTP: what they hand in, and what they survive."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from django.core.management import CommandError, call_command
from pytest_django.live_server_helper import LiveServer

from labelapp.models import (
    Assignment,
    Demonstration,
    Project,
    Ranking,
    Role,
    Round,
    Task,
    User,
)
from labelapp.services.assignments import assignment_claim_next
from labelapp.simulation.client import LabelerClient, SimulationError
from labelapp.simulation.crew import Plan, crew_run
from tests.factories import (
    make_member,
    make_project,
    make_round,
    make_samples,
    make_task,
    make_version,
)

pytestmark = pytest.mark.django_db(transaction=True)
Spoil = Callable[[str, int], str | None]


@contextmanager
def troubled(target: str, spoil: Spoil) -> Iterator[str]:
    """A proxy in front of ``target``. ``spoil(path, n)`` for the n-th request to a path says what
    goes wrong: "cut" (the server acts, its answer is lost), "503" or "429" (it never hears of it).
    """
    seen: dict[str, Iterator[int]] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            with lock:
                number = next(seen.setdefault(self.path, itertools.count()))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            trouble = spoil(self.path, number)
            if trouble in ("503", "429"):
                self.send_response(int(trouble))
                self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            answer = httpx.request(
                self.command, f"{target}{self.path}", headers=dict(self.headers), content=body
            )
            if trouble == "cut":
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            for name, value in answer.headers.multi_items():
                if name not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = pass_on

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def demonstrations_file(
    folder: Path, project: Project, but: int = 0, kind: str = "demonstration"
) -> Path:
    """Answers to all prompts of the project's tasks of that kind but the last ones."""
    tasks = list(project.tasks.filter(kind=kind).select_related("prompt"))
    lines = [
        json.dumps({"prompt": task.prompt.text, "completion": f"On {task.prompt.text} So."})
        for task in tasks[: len(tasks) - but]
    ]
    path = folder / "demonstrations.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def garden(demonstrations: int = 0, rankings: int = 0, both: int = 0) -> tuple[Project, Round]:
    """An open round; the first ``both`` ranking tasks are for two labelers."""
    project = make_project()
    round_ = make_round(project)
    for _ in range(demonstrations):
        make_task(round_)
    for number in range(rankings):
        make_task(round_, "ranking", overlap=2 if number < both else 1)
    return project, round_


@pytest.mark.slow
def test_they_write_and_rank_all_there_is_and_it_is_marked(
    live_server: LiveServer, tmp_path: Path
) -> None:
    project, _ = garden(demonstrations=5, rankings=6, both=2)
    path = demonstrations_file(tmp_path, project, but=1)
    plan = Plan(url=live_server.url, count=3, demonstrations=path)
    done = crew_run(project=project, plan=plan)
    assert (done.demonstrations, done.rankings, done.late) == (4, 8, 0)
    assert done.skipped >= 1
    assert "no demonstration" in done.sentence
    assert project.demonstrations.filter(simulated=True).count() == 4
    assert project.rankings.filter(simulated=True).count() == 8
    assert {d.text for d in Demonstration.objects.select_related("prompt")} == {
        f"On {d.prompt.text} So." for d in Demonstration.objects.select_related("prompt")
    }
    twice = Task.objects.filter(kind="ranking", overlap=2)
    assert all(task.rankings.values("labeler").distinct().count() == 2 for task in twice)
    users = User.objects.filter(simulated=True)
    assert {user.username for user in users} == {f"simulated-concise-{n}" for n in (1, 2, 3)}
    assert {user.memberships.get().role for user in users} == {Role.LABELER}


@pytest.mark.slow
def test_they_write_their_own_answer_first_where_the_round_wants_it(
    live_server: LiveServer, tmp_path: Path
) -> None:
    project, _ = garden(rankings=3)
    project.rounds.update(write_first=True)
    path = demonstrations_file(tmp_path, project, kind="ranking")
    done = crew_run(project=project, plan=Plan(url=live_server.url, count=2, demonstrations=path))
    assert (done.demonstrations, done.rankings) == (0, 3)
    written = project.demonstrations.filter(simulated=True, assignment__ranked__isnull=False)
    assert written.count() == 3


@pytest.mark.slow
def test_they_vote_on_pairs_by_the_same_preference(live_server: LiveServer, tmp_path: Path) -> None:
    project = make_project()
    opponent = make_version(project, state="retired")
    round_ = make_round(project, opponent=opponent, pairs_wanted=4)
    tasks = [make_task(round_, "pairwise") for _ in range(4)]
    tasks[0].samples.update(text="The same.")
    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    done = crew_run(project=project, plan=Plan(url=live_server.url, demonstrations=empty))
    assert done.votes == project.votes.filter(simulated=True).count() == 4
    assert "4 votes on pairs" in done.sentence
    assert tasks[0].votes.get().choice == "tie"
    assert project.votes.exclude(task=tasks[0]).filter(choice__in=["left", "right"]).count() == 3


@pytest.mark.slow
def test_limits_hold_over_the_whole_crew(live_server: LiveServer, tmp_path: Path) -> None:
    project, _ = garden(demonstrations=6, rankings=6)
    path = demonstrations_file(tmp_path, project)
    plan = Plan(
        url=live_server.url, count=3, demonstrations=path, max_demonstrations=4, max_rankings=2
    )
    done = crew_run(project=project, plan=plan)
    assert (done.demonstrations, done.rankings) == (4, 2)
    assert (project.demonstrations.count(), project.rankings.count()) == (4, 2)
    again = crew_run(project=project, plan=plan)  # the same accounts, with fresh passwords
    assert (again.demonstrations, again.rankings) == (2, 2)
    assert User.objects.filter(simulated=True).count() == 3


@pytest.mark.slow
def test_until_empty_waits_for_answers_that_are_still_being_drawn(
    live_server: LiveServer, tmp_path: Path
) -> None:
    project, round_ = garden(rankings=1)
    late = make_task(round_, "ranking", state=Task.State.WAITING)
    late.samples.all().delete()
    told = []

    def arrive(done: object) -> None:
        told.append(done)
        if len(told) == 2:
            assert project.rankings.count() == 0  # no scale before 32 sets, or all, are there
            make_samples(late)
            Task.objects.filter(pk=late.pk).update(state=Task.State.OPEN)

    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    plan = Plan(url=live_server.url, until_empty=True, demonstrations=empty)
    done = crew_run(project=project, plan=plan, tell=arrive)
    assert done.rankings == project.rankings.count() == 2


@pytest.mark.slow
def test_without_until_empty_they_leave_what_has_no_answers_yet(
    live_server: LiveServer, tmp_path: Path
) -> None:
    project, round_ = garden(demonstrations=1, rankings=1)
    make_task(round_, "ranking", state=Task.State.WAITING)
    plan = Plan(url=live_server.url, demonstrations=demonstrations_file(tmp_path, project))
    done = crew_run(project=project, plan=plan)
    assert (done.demonstrations, done.rankings) == (1, 1)


@pytest.mark.slow
def test_a_lost_answer_a_server_error_and_too_many_requests_lose_and_double_nothing(
    live_server: LiveServer, tmp_path: Path
) -> None:
    project, _ = garden(demonstrations=2, rankings=2)
    path = demonstrations_file(tmp_path, project)
    troubles = itertools.cycle(["cut", "503", "429"])
    met: list[str] = []

    def spoil(path: str, number: int) -> str | None:
        if number or not ("submit" in path or path in ("/sign-in/", "/api/p/garden/next/")):
            return None
        met.append(next(troubles))
        return met[-1]

    with troubled(live_server.url, spoil) as url:
        done = crew_run(project=project, plan=Plan(url=url, count=1, demonstrations=path))
    assert set(met) == {"cut", "503", "429"}
    assert (done.demonstrations, done.rankings, done.late) == (2, 2, 0)
    assert project.demonstrations.count() == project.rankings.count() == 2
    assert not Assignment.objects.exclude(state=Assignment.State.SUBMITTED).exists()


def test_a_lost_session_is_renewed(live_server: LiveServer) -> None:
    project, _ = garden()
    user = make_member(project)
    with LabelerClient(live_server.url, user.username, "correct horse battery") as client:
        client.sign_in()
        client._http.cookies.delete("sessionid")
        assert client.post("/api/p/garden/next/", {})["assignment"] is None


def test_a_wrong_password_and_a_dead_server_get_a_sentence(live_server: LiveServer) -> None:
    project, _ = garden()
    user = make_member(project)
    with (
        LabelerClient(live_server.url, user.username, "wrong") as client,
        pytest.raises(SimulationError, match="could not sign in"),
    ):
        client.sign_in()
    started = time.monotonic()
    with (
        LabelerClient("http://127.0.0.1:9", "someone", "x", patience=0.5) as client,
        pytest.raises(SimulationError, match="Is labelapp running there"),
    ):
        client.sign_in()
    assert time.monotonic() - started < 5


def test_what_the_server_refuses_stops_the_crew_with_the_servers_sentence(
    live_server: LiveServer, tmp_path: Path
) -> None:
    project, _ = garden(demonstrations=3)
    path = tmp_path / "demonstrations.jsonl"
    rows = [
        {"prompt": task.prompt.text, "completion": "x" * 60_001}
        for task in project.tasks.select_related("prompt")
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(CommandError, match="answered 400: The answer must be plain text"):
        call_command(
            "simulate_labelers", project="garden", url=live_server.url, demonstrations=path
        )
    assert not project.demonstrations.exists()


@pytest.mark.slow
def test_work_left_in_hand_by_an_earlier_start_is_finished(
    live_server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, round_ = garden(rankings=3)
    empty = tmp_path / "none.jsonl"
    empty.write_text("\n")
    options = {"project": "garden", "url": live_server.url, "count": 1, "demonstrations": empty}
    call_command("simulate_labelers", max_rankings=1, **options)
    user = User.objects.get(username="simulated-concise-1")
    task = round_.tasks.filter(taken=0).first()
    assert task is not None
    held = assignment_claim_next(project=project, labeler=user)
    assert held is not None
    call_command("simulate_labelers", **options)
    held.refresh_from_db()
    assert held.state == Assignment.State.SUBMITTED
    assert Ranking.objects.count() == 3
    assert "0 demonstrations and 2 rankings handed in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("nonsense", "line 2: each line must be an object"),
        ('{"prompt": "x"}', "line 2: each line must be an object"),
        ("[" * 100_000, "line 2: each line must be an object"),
        ('{"prompt": "x", "completion": " "}', "line 2: prompt and completion must be text"),
        ('{"prompt": 1, "completion": "y"}', "line 2: prompt and completion must be text"),
    ],
)
def test_a_bad_line_of_the_file_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    garden(demonstrations=1)
    path = tmp_path / "demonstrations.jsonl"
    path.write_text(f'{{"prompt": "a", "completion": "b"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(CommandError, match=sentence):
        call_command("simulate_labelers", project="garden", demonstrations=path)


def test_what_cannot_be_done_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="There is no project 'garden'"):
        call_command("simulate_labelers", project="garden")
    project = make_project()
    with pytest.raises(CommandError, match="No round is open in garden"):
        call_command("simulate_labelers", project="garden")
    make_round(project)
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("simulate_labelers", project="garden", demonstrations=tmp_path / "none")
    with pytest.raises(CommandError, match="at least one labeler"):
        call_command("simulate_labelers", project="garden", count=0)
    with pytest.raises(CommandError, match="is no address"):
        call_command("simulate_labelers", project="garden", url="nowhere")
    User.objects.create_user("simulated-concise-2", is_active=False, simulated=True)
    with pytest.raises(CommandError, match="simulated-concise-2 is deactivated"):
        call_command("simulate_labelers", project="garden")
    User.objects.create_user("simulated-concise-1")
    with pytest.raises(CommandError, match="is a person's account"):
        call_command("simulate_labelers", project="garden")
