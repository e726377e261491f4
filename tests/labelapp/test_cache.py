"""A broker that is away slows nobody's labels down."""

import json
import uuid

import pytest
from django.core.cache import cache, caches
from django.test import Client
from pytest_django import Settings

from labelapp.api.throttles import WindowThrottle
from labelapp.cache import ForgetfulCache
from labelapp.models import Demonstration
from tests.factories import make_member, make_project, make_round, make_task


def test_what_is_kept_is_found() -> None:
    cache.set("kept", 3, 60)
    assert cache.get("kept") == 3


def test_counts_go_on_until_they_are_forgotten() -> None:
    key = str(uuid.uuid4())
    counting = caches["default"]
    assert isinstance(counting, ForgetfulCache)
    assert [counting.count(key, 60) for _ in range(3)] == [1, 2, 3]
    assert counting.count(str(uuid.uuid4()), 60) == 1


@pytest.mark.django_db
def test_who_hands_in_too_often_is_told_when_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WindowThrottle.THROTTLE_RATES, "submit", "2/minute")
    monkeypatch.setattr("labelapp.api.throttles.time.time", lambda: 120_000_015.0)
    cache.clear()
    project = make_project()
    client = Client()
    user = make_member(project, "labeler")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    path = f"/api/p/garden/assignments/{uuid.uuid4()}/submit/"
    answers = [client.post(path, "{}", "application/json") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert answers[2]["Retry-After"] == "45"
    monkeypatch.setattr("labelapp.api.throttles.time.time", lambda: 120_000_061.0)
    assert client.post(path, "{}", "application/json").status_code == 400


@pytest.mark.django_db
def test_a_label_is_handed_in_while_valkey_is_away(settings: Settings) -> None:
    away = dict(settings.CACHES["default"], LOCATION="redis://127.0.0.1:1/0")
    settings.CACHES = {"default": away}
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    project = make_project()
    make_task(make_round(project))
    client = Client()
    user = make_member(project, "labeler")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")

    def post(path: str, data: dict[str, object]) -> dict[str, object]:
        answer = client.post(f"/api/p/garden/{path}", json.dumps(data), "application/json")
        assert answer.status_code == 200, answer.content
        return dict(answer.json())

    taken = post("next/", {})["assignment"]
    assert isinstance(taken, dict)
    label = {"client_id": str(uuid.uuid4()), "text": "Rain falls.", "active_ms": 9}
    assert post(f"assignments/{taken['id']}/submit/", label)["state"] == "submitted"
    assert Demonstration.objects.get().text == "Rain falls."
