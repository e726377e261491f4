"""What an admin sees and does on the pages: models, prompts, people, instructions."""

import json
import re
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labelapp.models import (
    Demonstration,
    Invite,
    ModelVersion,
    Prompt,
    Role,
    Upload,
)
from labelapp.services.people import invite_accept
from labelapp.services.rounds import instructions_add
from tests.factories import (
    PASSWORD,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)
from tests.labelapp.steering_cast import (
    HTMX,
    admin_of,
    demonstrate,
    main_of,
    make_cast,
    signed_in,
    text,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def queries(client: Client, path: str) -> int:
    client.get(path)
    with CaptureQueriesContext(connection) as seen:
        assert client.get(path).status_code == 200
    return len(seen)


# --- models


def test_versions_are_promoted_refused_and_rolled_back_to() -> None:
    project = make_project()
    base = make_version(project, state="current")
    newer, worse = make_version(project, stage="ppo"), make_version(project, stage="ppo")
    client = admin_of(project)
    client.post(f"/p/garden/models/{newer.pk}/promote/")
    client.post(f"/p/garden/models/{worse.pk}/refuse/")
    states = {v.pk: v.state for v in ModelVersion.objects.all()}
    assert states == {base.pk: "retired", newer.pk: "current", worse.pk: "refused"}
    assert "Roll back to this" in text(client.get("/p/garden/models/"))
    client.post(f"/p/garden/models/{base.pk}/rollback/")
    base.refresh_from_db()
    assert base.state == "current"
    said = text(client.post(f"/p/garden/models/{worse.pk}/promote/", follow=True))
    assert "was refused and cannot be promoted" in said


def test_the_way_back_from_a_promotion_stays_on_this_site() -> None:
    project = make_project()
    make_version(project, state="current")
    newer = make_version(project, stage="ppo")
    path = f"/p/garden/models/{newer.pk}/"
    answer = admin_of(project).post(f"{path}promote/", {"next": "https://evil.example/"})
    assert answer["Location"] == path


def test_a_model_page_shows_figures_hash_snapshots_and_answers_unharmed() -> None:
    cast = make_cast()
    ModelVersion.objects.filter(pk=cast.version.pk).update(metrics={"loss": 1.8444})
    cast.version.samples.update(text="<script>alert(1)</script>")
    page = signed_in(cast.people["admin"]).get(f"/p/garden/models/{cast.version.pk}/")
    assert "1.84" in text(page)
    assert cast.version.sha256 in text(page)
    assert b"<script>alert" not in page.content
    assert b"&lt;script&gt;alert(1)" in page.content


# --- prompts and uploads


@pytest.mark.slow
def test_lists_cost_the_same_queries_at_any_length() -> None:
    cast = make_cast()
    client = signed_in(cast.people["admin"])
    paths = ["prompts", "people", "models", "rounds", "instructions", "data", "rounds/1"]
    before = {path: queries(client, f"/p/garden/{path}/") for path in paths}
    make_prompts(cast.project, 60)
    for _ in range(8):
        labeler = make_member(cast.project)
        make_version(cast.project)
        instructions_add(project=cast.project, body="Another.")
        make_task(cast.round)
        demonstrate(cast.project, labeler)
        make_round(cast.project, state="closed", closed_at=timezone.now())
    assert {path: queries(client, f"/p/garden/{path}/") for path in paths} == before
    assert max(before.values()) <= 20


def test_prompts_are_filtered_and_paged_and_shown_as_text() -> None:
    project = make_project()
    make_prompts(project, 55)
    hostile = "<img src=x onerror=alert(1)> about <b>rivers</b>"
    Prompt.objects.filter(pk=Prompt.objects.earliest("pk").pk).update(
        text=hostile, kind="user", parts={"stated_use_case": "<i>geography</i>"}
    )
    client = admin_of(project)
    assert "1 to 50 of 55" in text(client.get("/p/garden/prompts/"))
    assert "51 to 55 of 55" in text(client.get("/p/garden/prompts/?page=2"))
    found = client.get("/p/garden/prompts/?kind=user&words=rivers").content.decode()
    assert "1 prompt<" in found.replace("\n", "")
    assert "<img" not in found
    assert "&lt;img src=x onerror=alert(1)&gt;" in found
    assert "No prompt fits" in text(client.get("/p/garden/prompts/?split=test"))
    assert client.get("/p/garden/prompts/?kind=nonsense&page=zzz").status_code == 200


def upload_file(client: Client, kind: str, name: str, content: str) -> Any:
    file = SimpleUploadedFile(name, content.encode())
    return client.post("/p/garden/prompts/upload/", {"kind": kind, "file": file}, follow=True)


def test_an_upload_is_shown_first_and_added_on_the_second_yes() -> None:
    project = make_project()
    make_prompts(project, 1)
    known = Prompt.objects.get().text
    client = admin_of(project)
    rows = [{"text": "Name a river."}, {"text": known}, {"text": "x", "kind": "odd"}]
    lines = "\n".join([*map(json.dumps, rows), "{broken"])
    page = main_of(upload_file(client, "prompts", "own.jsonl", lines))
    assert Prompt.objects.count() == 1
    assert "Nothing has been written yet." in page
    assert "Add 1 prompt<" in page
    assert "kind is 'odd'; it must be one of plain, few_shot, user." in page
    assert '<th scope="row" class="num">3</th>' in page
    assert '<th scope="row" class="num">4</th>' in page
    assert "Duplicates" in page
    upload = Upload.objects.get()
    answer = client.post(f"/p/garden/uploads/{upload.pk}/apply/", follow=True)
    assert "1 prompt added." in text(answer)
    assert Prompt.objects.count() == 2
    again = client.post(f"/p/garden/uploads/{upload.pk}/apply/", follow=True)
    assert "This file was decided on before: Added." in text(again)
    assert Prompt.objects.count() == 2


def test_demonstrations_come_in_by_csv_with_their_prompts() -> None:
    project = make_project()
    client = admin_of(project)
    page = main_of(
        upload_file(client, "demonstrations", "d.csv", "text,completion\nName a river.,The Elbe.\n")
    )
    assert "Add 1 demonstration<" in page
    assert "The Elbe." in page
    client.post(f"/p/garden/uploads/{Upload.objects.get().pk}/apply/")
    assert Demonstration.objects.get().source == "upload"


def test_a_discarded_upload_writes_nothing() -> None:
    project = make_project()
    client = admin_of(project)
    upload_file(client, "prompts", "own.jsonl", '{"text": "Name a river."}')
    client.post(f"/p/garden/uploads/{Upload.objects.get().pk}/discard/")
    assert Upload.objects.get().state == Upload.State.DISCARDED
    assert not Prompt.objects.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", "", "This file is empty."),
        ("blank.jsonl", "\n\n", "The file has no rows."),
    ],
)
def test_a_file_without_rows_is_refused(name: str, content: str, said: str) -> None:
    project = make_project()
    answer = upload_file(admin_of(project), "prompts", name, content)
    assert answer.status_code == 400
    assert said in text(answer)


# --- people


def invite_link(page: str) -> str:
    found = re.search(r'value="http://testserver(/invite/[^"]+/)"', page)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_an_invite_link_is_shown_once_and_works(headers: dict[str, str]) -> None:
    project = make_project()
    client = admin_of(project)
    sent = {"role": "researcher", "note": "Rosa"}
    answer = client.post("/p/garden/people/invite/", sent, headers=headers)
    assert "no-store" in answer["Cache-Control"]
    token = invite_link(answer.content.decode()).split("/")[2]
    page = client.get("/p/garden/people/").content.decode()
    assert token not in page
    assert "Rosa" in page
    assert token not in str(Invite.objects.values().get())
    user = invite_accept(token=token, username="rosa", password=PASSWORD, full_name="Rosa R")
    assert project.memberships.get(user=user).role == Role.RESEARCHER
    assert "Invites not used yet" not in text(client.get("/p/garden/people/"))


def test_roles_change_and_people_are_deactivated_and_brought_back() -> None:
    project = make_project()
    client = admin_of(project)
    labeler = make_member(project, username="lena")
    person = project.memberships.get(user=labeler)
    client.post(f"/p/garden/people/{person.pk}/role/", {"role": "researcher"})
    person.refresh_from_db()
    assert person.role == Role.RESEARCHER
    theirs = signed_in(labeler)
    assert theirs.get("/p/garden/data/").status_code == 200
    client.post(f"/p/garden/people/{person.pk}/active/", {"active": "no"})
    assert theirs.get("/p/garden/data/").status_code == 302
    assert "Deactivated" in text(client.get("/p/garden/people/?words=lena"))
    client.post(f"/p/garden/people/{person.pk}/active/", {"active": "yes"})
    labeler.refresh_from_db()
    assert labeler.is_active
    assert client.post(f"/p/garden/people/{person.pk}/role/", {"role": "owner"}).status_code == 400


def test_the_last_active_admin_cannot_be_demoted_or_deactivated() -> None:
    project = make_project()
    me = make_member(project, Role.ADMIN)
    client, mine = signed_in(me), project.memberships.get(user=me)
    for action, sent in (("role", {"role": "labeler"}), ("active", {"active": "no"})):
        answer = client.post(f"/p/garden/people/{mine.pk}/{action}/", sent, follow=True)
        assert "last admin; make someone else admin first" in text(answer)
    mine.refresh_from_db()
    assert (mine.role, mine.user.is_active) == (Role.ADMIN, True)


def test_a_reset_link_is_shown_once_and_leads_to_a_new_password() -> None:
    project = make_project()
    labeler = make_member(project)
    person = project.memberships.get(user=labeler)
    answer = admin_of(project).post(f"/p/garden/people/{person.pk}/reset/", headers=HTMX)
    assert "no-store" in answer["Cache-Control"]
    link = re.search(r'value="http://testserver(/reset/[^"]+)"', answer.content.decode())
    assert link is not None
    browser = Client()
    form = browser.get(link[1], follow=True)
    at = form.redirect_chain[-1][0]
    new = "a rather long new password"
    browser.post(at, {"new_password1": new, "new_password2": new})
    labeler.refresh_from_db()
    assert labeler.check_password(new)


# --- instructions


def test_a_new_version_of_the_instructions_leaves_the_old_one_as_it_was() -> None:
    project = make_project()
    client = admin_of(project)
    client.post("/p/garden/instructions/", {"body": "# First\n\n**Be kind.**"})
    client.post("/p/garden/instructions/", {"body": "Second <script>alert(1)</script>"})
    newest = client.get("/p/garden/instructions/").content.decode()
    assert "<script>alert" not in newest
    older = client.get("/p/garden/instructions/1/").content.decode()
    assert "<strong>Be kind.</strong>" in older
    assert [version.number for version in project.instructions.all()] == [2, 1]
    empty = client.post("/p/garden/instructions/", {"body": "  "})
    assert empty.status_code == 400
    assert client.get("/p/garden/instructions/9/").status_code == 404
