"""Many labelers at once on a real web server that is killed: nothing is overfilled, lost or doubled.

LABELING_SECONDS=60 makes the long run of it; the suite takes a shorter one.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.db.models import Count, F, Q

from labelapp.models import (
    Assignment,
    Demonstration,
    Project,
    Ranking,
    RankingPlace,
    Round,
    Standing,
    Task,
    User,
)
from labelapp.processes import PROCESSES
from labelapp.services.tokens import token_create
from tests.e2e.stack import free_port
from tests.factories import make_member, make_project, make_round, make_task
from tests.recovery.conftest import ROOT, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.django_db(transaction=True)]

SECONDS = float(os.environ.get("LABELING_SECONDS", "8"))
OFFLINE = (OSError, http.client.HTTPException)


class WebServer:
    """gunicorn as the product starts it, to be killed and started again at one address."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.environment = environment | {
            "LABELAPP_PORT": str(self.port),
            "THROTTLE_SUBMIT": "100000/minute",
        }
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (web,) = [process for process in PROCESSES if process.name == "web"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                web.arguments,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(self.answers, what="an answer of the web server")

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            with connection.getresponse() as answer:
                return answer.status == 200
        except OFFLINE:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL to the server and its workers, whatever they are at."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def web(process_environment: dict[str, str], tmp_path: Path) -> Iterator[WebServer]:
    server = WebServer(process_environment, tmp_path / "web.log")
    server.start()
    yield server
    server.kill()


@dataclass
class Worker:
    """One labeler with a token, as a program sees it."""

    web: WebServer
    labeler: User
    token: str
    ends: float = 0.0
    draw: random.Random = field(default_factory=random.Random)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)  # by client id
    sent: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)

    def post(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=20)
        try:
            headers = {
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
            }
            connection.request("POST", f"/api/p/garden/{path}", json.dumps(body), headers)
            with connection.getresponse() as answer:
                said = answer.read()
        finally:
            connection.close()
        self.statuses[answer.status] += 1
        return answer.status, json.loads(said)

    def insist(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        """Ask until there is an answer; sometimes ask again all the same."""
        while True:
            try:
                answer = self.post(path, body)
                if self.draw.random() < 0.3:
                    again = self.post(path, body)
                    assert again[0] == answer[0], (answer, again)
                return answer
            except OFFLINE:
                time.sleep(0.05)

    def work(self) -> None:
        while time.monotonic() < self.ends:
            status, body = self.insist("next/", {})
            assert status == 200, body
            assignment = body["assignment"]
            if assignment is None:
                return
            path = f"assignments/{assignment['id']}/"
            if self.draw.random() < 0.05:
                status, body = self.insist(f"{path}skip/", {"reason": "Not my field."})
                assert status == 200, body
                continue
            letters = [answer["letter"] for answer in assignment["answers"]]
            self.draw.shuffle(letters)
            client_id = str(uuid.uuid4())
            self.sent.add(client_id)
            label = {"client_id": client_id, "groups": [[letter] for letter in letters]}
            status, body = self.insist(f"{path}submit/", label)
            assert status == 200, body
            self.accepted[client_id] = body


def at_once(acts: list[Callable[[], object]]) -> None:
    """Run all, each in a thread, from one moment on; the first error is raised."""
    start, errors = threading.Barrier(len(acts)), []

    def run(act: Callable[[], object]) -> None:
        try:
            start.wait()
            act()
        except BaseException as error:  # told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def workers(web: WebServer, project: Project, count: int) -> list[Worker]:
    made = []
    for seed in range(count):
        labeler = make_member(project)
        _, token = token_create(project=project, labeler=labeler)
        ends = time.monotonic() + SECONDS
        made.append(Worker(web, labeler, token, ends, random.Random(seed)))
    return made


def counters_are_true(round_: Round) -> None:
    held = Q(assignments__state__in=["leased", "submitted"])
    tasks = Task.objects.filter(round=round_).annotate(
        held=Count("assignments", filter=held),
        done=Count("assignments", filter=Q(assignments__state="submitted")),
    )
    assert not tasks.filter(held__gt=F("overlap")).exists()
    assert not tasks.exclude(taken=F("held"), submitted=F("done")).exists()


def test_fifty_at_once_overfill_nothing(web: WebServer) -> None:
    project = make_project()
    round_ = make_round(project, overlap=4, k=2)
    for position in range(8):
        make_task(round_, "ranking", overlap=4, position=position)
    crowd = workers(web, project, 50)
    got: list[str] = []

    def ask(worker: Worker) -> None:
        status, body = worker.post("next/", {})
        assert status == 200
        if body["assignment"]:
            got.append(body["assignment"]["id"])

    at_once([lambda worker=worker: ask(worker) for worker in crowd])
    assert len(got) == len(set(got)) == 32  # all places, none twice
    assert Assignment.objects.count() == 32
    assert {task.taken for task in round_.tasks.all()} == {4}
    counters_are_true(round_)


def test_nothing_accepted_is_lost_or_counted_twice_though_the_server_is_killed(
    web: WebServer,
) -> None:
    project = make_project()
    round_ = make_round(project, overlap=6, k=2)
    for position in range(int(60 * SECONDS)):
        make_task(round_, "ranking", overlap=6, position=position)
    crowd = workers(web, project, 16)
    killed: list[float] = []

    def killer() -> None:
        for _ in range(2):
            time.sleep(SECONDS / 3)
            web.kill()
            killed.append(time.monotonic())
            web.start()

    at_once([killer, *(worker.work for worker in crowd)])

    assert len(killed) == 2
    accepted = {client: body for worker in crowd for client, body in worker.accepted.items()}
    sent = {client for worker in crowd for client in worker.sent}
    rows = {str(row.client_id): row for row in Ranking.objects.all()}
    assert len(accepted) > 5 * SECONDS
    assert set(accepted) <= set(rows) <= sent
    for client, body in accepted.items():
        assert rows[client].pk == body["label_id"]
        assert rows[client].surplus == (body["state"] == "surplus")
    assert RankingPlace.objects.count() == 2 * len(rows)
    assert Demonstration.objects.count() == 0
    assert len({(row.task_id, row.labeler_id) for row in rows.values()}) == len(rows)
    assert Assignment.objects.filter(state__in=["submitted", "surplus"]).count() == len(rows)
    counters_are_true(round_)
    standing = dict(Standing.objects.values_list("labeler_id", "handed_in"))
    done = Counter(row.labeler_id for row in rows.values())
    assert {labeler: n for labeler, n in standing.items() if n} == dict(done)
    statuses = sum((worker.statuses for worker in crowd), Counter[int]())
    assert set(statuses) == {200}, statuses
