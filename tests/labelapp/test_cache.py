"""A broker that is away slows nobody's labels down."""

import json
import uuid

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from labelapp.models import Demonstration
from tests.factories import make_member, make_project, make_round, make_task


def test_what_is_kept_is_found() -> None:
    cache.set("kept", 3, 60)
    assert cache.get("kept") == 3


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
