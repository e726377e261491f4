"""The API of runs: for admins and researchers of the project, and nobody else."""

import uuid

import pytest
from rest_framework.test import APIClient

from labelapp.models import Project, Role, Run
from labelapp.services.runs import run_queue
from labelapp.store import run_folder
from tests.factories import make_member, make_project

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def client_of(project: Project, role: str) -> APIClient:
    client = APIClient()
    client.force_login(
        make_member(project, role), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def address(run: Run, tail: str = "") -> str:
    return f"/api/p/{run.project.slug}/runs/{run.pk}/{tail}"


@pytest.fixture
def run(store) -> Run:
    made = run_queue(project=make_project(), stage=Run.Stage.BASE)
    run_folder(made.pk).mkdir(parents=True)
    (run_folder(made.pk) / "metrics.jsonl").write_text(
        '{"step": 1, "total": 2, "time": 0, "values": {"loss": 2.0, "kl": 0.5}}\n'
        '{"step": 2, "total": 2, "time": 0, "values": {"loss": 1.0, "kl": null}}\n'
    )
    return made


@pytest.mark.parametrize("role", [Role.ADMIN, Role.RESEARCHER])
def test_those_who_steer_see_a_runs_state_and_curves(run: Run, role: str) -> None:
    client = client_of(run.project, role)
    state = client.get(address(run)).json()
    assert (state["state"], state["detail"], state["fraction"]) == (
        "queued",
        "Waiting for a worker",
        0.0,
    )
    assert client.get(address(run, "series/?names=kl,loss,kl")).json() == {
        "steps": [1, 2],
        "series": {"kl": [0.5, None], "loss": [2.0, 1.0]},
    }
    assert set(client.get(address(run, "series/")).json()["series"]) == {"kl", "loss"}


@pytest.mark.parametrize("tail", ["", "series/"])
def test_labelers_and_strangers_see_nothing_of_runs(run: Run, tail: str) -> None:
    refused = client_of(run.project, Role.LABELER).get(address(run, tail))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed")
    outside = client_of(make_project("other"), Role.ADMIN).get(address(run, tail))
    assert (outside.status_code, outside.json()["error"]["code"]) == (404, "not_found")
    assert APIClient().get(address(run, tail)).status_code in (401, 403)


def test_a_run_of_another_project_is_not_found_under_ones_own(run: Run) -> None:
    other = make_project("other")
    client = client_of(other, Role.ADMIN)
    for pk in (run.pk, uuid.uuid4()):
        assert client.get(f"/api/p/{other.slug}/runs/{pk}/").status_code == 404
