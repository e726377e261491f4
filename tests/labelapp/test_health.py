"""/healthz and /readyz."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from labelapp.models import WorkerSign

KINDS = ("worker", "worker-gpu", "beat")


def signs(age_seconds: float = 0) -> None:
    seen_at = timezone.now() - timedelta(seconds=age_seconds)
    for kind in KINDS:
        WorkerSign.objects.update_or_create(kind=kind, host="h", defaults={"seen_at": seen_at})


def test_a_running_process_says_so_without_a_database(client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.django_db
def test_everything_there_is_ready(client: Client) -> None:
    signs()
    answer = client.get("/readyz")
    assert answer.status_code == 200, answer.json()
    assert set(answer.json()["parts"]) == {"database", "broker", "migrations", *KINDS}
    assert all(part["ok"] for part in answer.json()["parts"].values())


@pytest.mark.django_db
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_worker_never_seen_is_not_ready(client: Client, kind: str) -> None:
    signs()
    WorkerSign.objects.filter(kind=kind).delete()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"][kind] == {"ok": False, "detail": "never seen"}


@pytest.mark.django_db
def test_a_worker_silent_for_a_minute_is_not_ready(client: Client) -> None:
    signs(age_seconds=60)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["worker-gpu"]["detail"] == "seen 60 s ago"


@pytest.mark.django_db
def test_one_living_worker_of_a_kind_is_enough(client: Client) -> None:
    signs(age_seconds=60)
    for kind in KINDS:
        WorkerSign.objects.create(kind=kind, host="other", seen_at=timezone.now())
    assert client.get("/readyz").status_code == 200


@pytest.mark.django_db
def test_a_broker_that_does_not_answer_is_named(client: Client, settings: Settings) -> None:
    signs()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["broker"] == {"ok": False, "detail": "ConnectionError"}


@pytest.mark.django_db
def test_a_waiting_migration_is_not_ready(client: Client) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'sessions'")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["migrations"] == {"ok": False, "detail": "1 to apply"}
