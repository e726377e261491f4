"""What the writing page asks of the server: how the text will look, and how long it is for the model."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from labelapp.models import Assignment, Project, Round
from labelapp.services.assignments import assignment_claim_next, assignment_draft_save
from labelapp.services.labels import text_submit
from labelapp.store import model_folder
from labelapp.tokens import token_count
from tests.factories import client_id, make_member, make_project, make_round, make_task

pytestmark = pytest.mark.django_db


def put_tokenizer(round_: Round) -> Path:
    """A tokenizer of words and signs in the folder of the round's model."""
    words = WordLevel({"[UNK]": 0, "tea": 1, "<": 2, "end": 3, ">": 4}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.enable_truncation(8)
    folder = model_folder(round_.policy.run_id)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def asked(project: Project, text: object, *, own: bool = True) -> tuple[int, dict[str, object]]:
    """The preview of a text, for a labeler's own task or by a stranger to it."""
    labeler, other = make_member(project), make_member(project)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    client = Client()
    client.force_login(
        labeler if own else other, backend="django.contrib.auth.backends.ModelBackend"
    )
    path = f"/api/p/{project.slug}/assignments/{assignment.pk}/preview/"
    answer = client.post(path, json.dumps({"text": text}), content_type="application/json")
    return answer.status_code, answer.json()


def test_a_preview_is_rendered_and_cleaned_by_the_server() -> None:
    project = make_project()
    make_task(make_round(project))
    text = "**warm** <img src=x onerror=alert(1)> [here](javascript:alert(1))"
    status, said = asked(project, text)
    assert status == 200
    assert "<strong>warm</strong>" in str(said["html"])
    assert "&lt;img" in str(said["html"])
    assert "href" not in str(said["html"])
    assert said["tokens"] is None  # the model's folder is not here


def test_a_preview_is_for_ones_own_task_alone() -> None:
    project = make_project()
    make_task(make_round(project))
    assert asked(project, "tea", own=False)[0] == 404


@pytest.mark.parametrize("text", ["x" * 60_001, "nul \x00", 7, None])
def test_a_preview_of_no_text_is_refused(text: object) -> None:
    project = make_project()
    make_task(make_round(project))
    status, _ = asked(project, text)
    assert status == (200 if text == 7 else 400)


def test_length_is_counted_by_the_tokenizer_of_the_rounds_model(store: Path) -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_)
    put_tokenizer(round_)
    assert asked(project, "tea and tea")[1]["tokens"] == 3
    assert token_count(round_.policy.run_id, "") == 0
    # longer than where the tokenizer was told to cut
    assert token_count(round_.policy.run_id, "tea " * 20) == 20
    # a control token that is spelled out is text: <, end, >
    assert token_count(round_.policy.run_id, "tea <end>") == 4


def test_a_tokenizer_that_cannot_be_read_gives_no_length(store: Path) -> None:
    round_ = make_round(make_project())
    folder = put_tokenizer(round_)
    (folder / "tokenizer.json").write_text("{}")
    assert token_count(round_.policy.run_id, "tea") is None


def test_active_and_idle_time_together_never_exceed_what_has_passed() -> None:
    project = make_project()
    make_task(make_round(project))
    labeler = make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    Assignment.objects.update(claimed_at=timezone.now() - timedelta(seconds=100))
    asked = {"assignment_id": claimed.pk, "labeler": labeler}
    saved = assignment_draft_save(**asked, draft={}, active_ms=40_000, idle_ms=20_000)
    assert (saved.active_ms, saved.idle_ms) == (40_000, 20_000)
    saved = assignment_draft_save(**asked, draft={}, active_ms=30_000, idle_ms=86_400_000)
    assert saved.active_ms == 40_000  # never counted back
    assert 59_000 < saved.idle_ms < 70_000
    label = text_submit(**asked, text="Tea.", client_id=client_id(), active_ms=45_000)
    saved.refresh_from_db()
    assert (label.active_ms, label.idle_ms) == (saved.active_ms, saved.idle_ms)
    assert label.active_ms == 45_000
    assert label.idle_ms is not None
    assert 54_000 < label.idle_ms < 65_000
