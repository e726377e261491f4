"""The labelers' API: what it says, and what it never says."""

import json
import uuid
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labelapp.errors import NotAllowed
from labelapp.models import ApiToken, Assignment, Demonstration, Membership, Project, Ranking
from labelapp.services.tokens import token_create, tokens_revoke
from tests.factories import make_member, make_project, make_round, make_task

pytestmark = pytest.mark.django_db


def signed_in(project: Project, role: str = "labeler") -> Client:
    client = Client()
    client.force_login(
        make_member(project, role), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def send(client: Client, path: str, data: object, method: str = "post") -> tuple[int, dict]:
    answer = getattr(client, method)(path, json.dumps(data), content_type="application/json")
    return answer.status_code, answer.json()


def test_a_labeler_takes_drafts_and_hands_in_a_demonstration() -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    status, body = send(client, "/api/p/garden/next/", {})
    assert status == 200
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/"
    status, saved = send(client, f"{path}draft/", {"draft": {"text": "So"}, "active_ms": 5}, "put")
    assert status == 200
    assert saved["saved_at"]
    assert client.get(path).json()["draft"] == {"text": "So"}
    submit = {"client_id": str(uuid.uuid4()), "text": "So it is.", "active_ms": 9}
    first, again = (send(client, f"{path}submit/", submit) for _ in range(2))
    assert first == again == (200, {"state": "submitted", "label_id": first[1]["label_id"]})
    assert Demonstration.objects.get().text == "So it is."
    assert send(client, "/api/p/garden/next/", {})[1]["assignment"] is None


def test_a_ranking_never_names_samples_or_versions() -> None:
    project = make_project()
    round_ = make_round(project)
    task = make_task(round_, "ranking")
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    assignment = body["assignment"]
    assert [answer["letter"] for answer in assignment["answers"]] == list("ABCD")
    assert set(assignment["answers"][0]) == {"letter", "text", "words"}
    assert "shown_order" not in assignment
    assert "version" not in json.dumps(assignment)
    path = f"/api/p/garden/assignments/{assignment['id']}/submit/"
    status, said = send(
        client, path, {"client_id": str(uuid.uuid4()), "groups": [["B"], ["A", "C"]]}
    )
    assert status == 400
    assert said["error"]["code"] == "bad_input"
    assert "D not placed" in said["error"]["message"]
    status, _ = send(
        client, path, {"client_id": str(uuid.uuid4()), "groups": [["B"], ["A", "C"], ["D"]]}
    )
    assert status == 200
    assert Ranking.objects.get().places.count() == round_.k == task.samples.count()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"client_id": "no uuid", "text": "x"},
        {"client_id": "0" * 32, "text": "x", "groups": []},
        {"client_id": "0" * 32, "groups": "AB"},
        {"client_id": "0" * 32, "text": "x", "active_ms": -1},
        [],
    ],
)
def test_a_malformed_submit_gets_a_sentence_in_the_one_error_shape(data: object) -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/submit/"
    status, said = send(client, path, data)
    assert status == 400
    assert set(said["error"]) == {"code", "message", "fields"}
    assert said["error"]["message"]


def test_someone_elses_assignment_is_not_found() -> None:
    project = make_project()
    make_task(make_round(project))
    _, body = send(signed_in(project), "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/"
    other = signed_in(project)
    assert other.get(path).status_code == 404
    assert send(other, f"{path}skip/", {"reason": "mine now"})[0] == 404


def test_an_assignment_is_not_reachable_through_another_project() -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    make_project("orchard")
    path = f"/api/p/orchard/assignments/{body['assignment']['id']}/"
    assert client.get(path).status_code == 404


def test_a_draft_that_is_no_object_is_refused() -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/draft/"
    assert send(client, path, {"draft": "text"}, "put")[0] == 400


@pytest.mark.parametrize("odd", ["a\x00b", "half \ud83d of it", "\udc00"])
def test_what_the_database_cannot_hold_is_refused_wherever_it_stands(odd: str) -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/"
    for draft in ({"text": odd}, {odd: 1}, {"deep": [{"er": [odd]}]}):
        status, said = send(client, f"{path}draft/", {"draft": draft}, "put")
        assert (status, said["error"]["code"]) == (400, "parse_error")
        assert "half a character" in said["error"]["message"]
    assert send(client, f"{path}submit/", {"client_id": str(uuid.uuid4()), "text": odd})[0] == 400
    for depth in (300, 100_000):
        deep = '{"draft": {"a": ' + "[" * depth + "]" * depth + "}}"
        answer = client.put(f"{path}draft/", deep, content_type="application/json")
        assert answer.status_code in (200, 400)


def test_two_windows_of_one_task_do_not_write_over_each_other() -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/draft/"

    def save(stamp: str, over: str | None) -> int:
        draft = {"text": f"by {stamp}", "stamp": stamp}
        return send(client, path, {"draft": draft, "over": over}, "put")[0]

    assert save("one:1", None) == 200
    assert save("two:1", None) == 409
    assert save("one:2", None) == 200
    assert save("two:1", "one:1") == 409
    assert save("two:1", "one:2") == 200
    assert save("one:3", None) == 409
    assert send(client, path, {"draft": {"text": "by a program"}}, "put")[0] == 200
    assert save("one:3", None) == 200


def test_a_draft_that_was_overtaken_on_its_way_changes_nothing() -> None:
    project = make_project()
    make_task(make_round(project))
    client = signed_in(project)
    _, body = send(client, "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/draft/"
    for stamp in ("one:9", "one:10", "one:9"):
        draft = {"text": f"by {stamp}", "stamp": stamp}
        status, _ = send(client, path, {"draft": draft, "over": None}, "put")
        assert status == 200
    assert Assignment.objects.get().draft["text"] == "by one:10"


def test_posts_without_the_csrf_token_are_refused() -> None:
    project = make_project()
    make_task(make_round(project))
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_member(project), backend="django.contrib.auth.backends.ModelBackend")
    status, said = send(client, "/api/p/garden/next/", {})
    assert status == 403
    assert said["error"]["code"] == "permission_denied"


def test_a_token_opens_the_labelers_api_of_its_project_and_nothing_else() -> None:
    project, other = make_project(), make_project("orchard")
    make_task(make_round(project))
    labeler = make_member(project)
    Membership.objects.create(project=other, user=labeler, role="labeler")
    row, token = token_create(project=project, labeler=labeler)
    assert token not in row.token_sha256

    def asked(path: str, key: str = token) -> int:
        client = Client(headers={"authorization": f"Bearer {key}"}, enforce_csrf_checks=True)
        return client.post(path, "{}", content_type="application/json").status_code

    assert asked("/api/p/garden/next/") == 200
    assert asked("/api/p/orchard/next/") == 403
    assert asked("/api/p/garden/next/", "guessed") == 403
    ApiToken.objects.update(expires_at=timezone.now())
    assert asked("/api/p/garden/next/") == 403
    ApiToken.objects.update(expires_at=timezone.now() + timedelta(days=1))
    assert tokens_revoke(project=project, labeler=labeler) == 1
    assert asked("/api/p/garden/next/") == 403


def test_tokens_are_for_labelers() -> None:
    project = make_project()
    with pytest.raises(NotAllowed):
        token_create(project=project, labeler=make_member(project, "researcher"))


def test_the_command_makes_a_token_that_works_until_it_is_revoked() -> None:
    project = make_project()
    make_member(project, username="ann")

    def told(**options: object) -> str:
        output = StringIO()
        call_command("api_token", "garden", "ann", stdout=output, **options)
        return output.getvalue()

    client = Client(headers={"authorization": f"Bearer {told().split()[0]}"})
    assert send(client, "/api/p/garden/next/", {})[0] == 200
    assert "revoked: 1" in told(revoke=True)
    assert send(client, "/api/p/garden/next/", {})[0] == 403
    with pytest.raises(CommandError, match="1 to 365"):
        told(days=400)


def test_next_and_submit_ask_the_database_little() -> None:
    project = make_project()
    make_task(make_round(project), "ranking")
    _, token = token_create(project=project, labeler=make_member(project))
    client = Client(headers={"authorization": f"Bearer {token}"})
    with CaptureQueriesContext(connection) as asked_next:
        _, body = send(client, "/api/p/garden/next/", {})
    path = f"/api/p/garden/assignments/{body['assignment']['id']}/submit/"
    ranking = {"client_id": str(uuid.uuid4()), "groups": [["A"], ["B"], ["C"], ["D"]]}
    with CaptureQueriesContext(connection) as asked_submit:
        assert send(client, path, ranking)[0] == 200
    # who asks, the claim, the task, its answers
    assert len(asked_next) == 4, [each["sql"] for each in asked_next]
    # who asks, the lock, the label and what becomes of its task; begin and commit
    assert len(asked_submit) == 5, [each["sql"] for each in asked_submit]
