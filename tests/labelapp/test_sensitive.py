"""Sensitive content is marked, covered, and kept from those who opted out of it."""

import json

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from labelapp.errors import BadInput
from labelapp.models import Project, Prompt, Task, User
from labelapp.selectors.queue import queue_counts
from labelapp.services.accounts import account_avoids_set
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.prompts import sensitive_checked
from labelapp.services.uploads import upload_apply, upload_preview
from tests.factories import make_member, make_project, make_round, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def labeler(project: Project) -> User:
    return make_member(project)


def marked(project: Project, *categories: str, kind: str = "demonstration") -> Task:
    round_ = project.rounds.first() or make_round(project)
    task = make_task(round_, kind)
    Prompt.objects.filter(pk=task.prompt_id).update(sensitive=list(categories))
    return task


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


# --- opting out


def test_one_who_opted_out_gets_no_such_task(project: Project, labeler: User) -> None:
    marked(project, "violence", "hate")
    mild = marked(project)
    account_avoids_set(user=labeler, avoids=["hate"])
    waiting = queue_counts(round_=mild.round, labeler=labeler)
    assert {each.kind: each.count for each in waiting}["demonstration"] == 1
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    assert claimed.task == mild


def test_when_only_such_tasks_are_left_there_is_nothing_to_do(
    project: Project, labeler: User
) -> None:
    hard = marked(project, "self_harm")
    account_avoids_set(user=labeler, avoids=["self_harm", "sexual"])
    assert assignment_claim_next(project=project, labeler=labeler) is None
    other = make_member(project)
    claimed = assignment_claim_next(project=project, labeler=other)
    assert claimed is not None
    assert claimed.task == hard


def test_other_categories_are_still_given(project: Project, labeler: User) -> None:
    marked(project, "violence")
    account_avoids_set(user=labeler, avoids=["hate"])
    assert assignment_claim_next(project=project, labeler=labeler) is not None


def test_people_choose_on_their_account_page(labeler: User) -> None:
    client = signed_in(labeler)
    client.post("/account/content/", {"avoids": ["hate", "violence"]})
    labeler.refresh_from_db()
    assert labeler.avoids == ["violence", "hate"]
    assert client.get("/account/").content.decode().count(' name="avoids"') == 4
    client.post("/account/content/", {"avoids": ["everything"]})
    labeler.refresh_from_db()
    assert labeler.avoids == ["violence", "hate"]
    client.post("/account/content/", {})
    labeler.refresh_from_db()
    assert labeler.avoids == []


# --- marking


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, ()),
        ("", ()),
        (" Hate; violence,", ("violence", "hate")),
        (["hate", "hate"], ("hate",)),
    ],
)
def test_marks_are_read_from_lists_and_words(given: object, read: tuple[str, ...]) -> None:
    assert sensitive_checked(given) == read


@pytest.mark.parametrize("given", [3, ["hate", 3], {"hate": 1}, "spiders"])
def test_marks_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(BadInput, match="sensitive"):
        sensitive_checked(given)


def test_an_upload_marks_its_prompts(project: Project) -> None:
    admin = make_member(project, "admin")
    lines = [
        {"text": "A quarrel.", "sensitive": ["violence"]},
        {"text": "A walk."},
        {"text": "A spider.", "sensitive": "spiders"},
    ]
    for name, content in (
        ("own.jsonl", "\n".join(map(json.dumps, lines))),
        ("own.csv", 'text,sensitive\nA war.,"violence, hate"\n'),
    ):
        upload = upload_preview(
            project=project, kind="prompts", file_name=name, content=content.encode(), by=admin
        )
        upload_apply(upload=upload)
    marks = dict(Prompt.objects.values_list("text", "sensitive"))
    assert marks == {"A quarrel.": ["violence"], "A walk.": [], "A war.": ["violence", "hate"]}


def test_an_admin_marks_a_prompt_by_hand(project: Project) -> None:
    prompt = marked(project).prompt
    client = signed_in(make_member(project, "admin"))
    address = f"/p/garden/prompts/{prompt.pk}/sensitive/"
    client.post(address, {"sensitive": ["sexual"]})
    prompt.refresh_from_db()
    assert prompt.sensitive == ["sexual"]
    assert "Sexual content</span>" in client.get("/p/garden/prompts/").content.decode()
    make_project("orchard")
    other = signed_in(make_member(Project.objects.get(slug="orchard"), "admin"))
    assert other.post(f"/p/orchard/prompts/{prompt.pk}/sensitive/").status_code == 404


def test_the_database_knows_the_categories(project: Project, labeler: User) -> None:
    task = marked(project)
    with pytest.raises(IntegrityError), transaction.atomic():
        Prompt.objects.filter(pk=task.prompt_id).update(sensitive=["spiders"])
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=labeler.pk).update(avoids=["spiders"])


# --- covering


def test_a_marked_task_is_covered_and_says_why(project: Project, labeler: User) -> None:
    marked(project, "violence", kind="ranking")
    client = signed_in(labeler)
    text = client.post("/p/garden/work/next/", follow=True).content.decode()
    assert "This task holds sensitive content: Violence." in text
    assert text.count("data-veiled inert") == 2
    assert "Sensitive content, covered" in client.get("/p/garden/work/").content.decode()


def test_an_unmarked_task_is_not(project: Project, labeler: User) -> None:
    marked(project)
    text = signed_in(labeler).post("/p/garden/work/next/", follow=True).content.decode()
    assert "data-veiled" not in text
    assert "veil.js" not in text
