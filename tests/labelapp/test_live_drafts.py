"""What is typed of a live prompt is on the server before it is asked, for its writer alone."""

import uuid
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from labelapp.models import LiveDraft, Round, User
from labelapp.selectors.live import live_draft
from labelapp.services.live import live_prompt_write
from labelapp.services.live_drafts import live_draft_save
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def round_() -> Round:
    return factories.make_round(factories.make_project(), live_prompting=True)


@pytest.fixture
def labeler(round_: Round) -> User:
    return factories.make_member(round_.project, username="lena")


def save(round_: Round, labeler: User, text: str, **fields: Any) -> None:
    given = {"text": text, "use_case": "chat", "client_id": uuid.uuid4()} | fields
    live_draft_save(project=round_.project, labeler=labeler, **given)


def kept(round_: Round, labeler: User) -> object:
    draft = live_draft(project=round_.project, labeler=labeler)
    return draft["text"] if draft else None


def test_the_last_one_is_kept_and_an_empty_one_is_none(round_: Round, labeler: User) -> None:
    other = factories.make_member(round_.project)
    save(round_, labeler, "Why is the")
    save(round_, labeler, "Why is the sea salt?")
    assert kept(round_, labeler) == "Why is the sea salt?"
    assert kept(round_, other) is None
    save(round_, labeler, "  ")
    assert kept(round_, labeler) is None


def test_it_is_gone_once_it_was_asked_and_does_not_come_back(round_: Round, labeler: User) -> None:
    asked = {"use_case": "chat", "client_id": uuid.uuid4()}
    save(round_, labeler, "Why is the", **asked)
    live_prompt_write(project=round_.project, labeler=labeler, text="Why is the sea?", **asked)
    assert not LiveDraft.objects.exists()
    save(round_, labeler, "Why is the sea", **asked)  # was on its way meanwhile
    assert kept(round_, labeler) is None
    LiveDraft.objects.create(project=round_.project, labeler=labeler, text="Why", **asked)
    assert kept(round_, labeler) is None
    save(round_, labeler, "And the sky?")
    assert kept(round_, labeler) == "And the sky?"


def test_over_the_api_and_on_the_page(round_: Round, labeler: User) -> None:
    client = Client()
    client.force_login(labeler)
    sent = {"text": "Why is <b>", "use_case": "chat", "client_id": str(uuid.uuid4())}
    path = "/api/p/garden/live/draft/"
    assert client.put(path, sent, content_type="application/json").json()["saved_at"]
    draft = client.get("/p/garden/live/").context["page_data"]["draft"]
    assert (draft["text"], draft["use_case"]) == ("Why is <b>", "chat")
    for wrong in ({"use_case": "none"}, {"text": "x" * 20_001}, {"client_id": "1"}):
        answer = client.put(path, sent | wrong, content_type="application/json")
        assert answer.status_code == 400
        assert set(answer.json()["error"]["fields"]) == set(wrong)


def test_the_database_keeps_one_of_a_labeler_in_a_project(round_: Round, labeler: User) -> None:
    row = {"project": round_.project, "text": "a", "client_id": uuid.uuid4()}
    LiveDraft.objects.create(use_case="chat", labeler=labeler, **row)
    other = factories.make_member(round_.project)
    for whose, use_case in ((labeler, "chat"), (other, "none")):
        with pytest.raises(IntegrityError), transaction.atomic():
            LiveDraft.objects.create(use_case=use_case, labeler=whose, **row)
