"""The pages of people and labelers, as the server gives them."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from labelapp.models import Assignment, Invite, Membership, Project, Role, Task, User
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import text_submit
from labelapp.services.people import invite_create, password_reset_link
from tests import factories

pytestmark = pytest.mark.django_db
GOOD_PASSWORD = "seven quiet gulls on a wall"


@pytest.fixture
def project() -> Project:
    return factories.make_project(name="Garden of answers")


@pytest.fixture
def labeler(project: Project) -> User:
    return factories.make_member(project, username="lena")


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, address: str, status: int = 200) -> str:
    response = client.get(address)
    assert response.status_code == status, response.status_code
    return response.content.decode()


# --- signing in


def test_signing_in_leads_to_the_work_of_ones_role(project: Project, labeler: User) -> None:
    client = Client()
    sent = {"username": "lena", "password": factories.PASSWORD}
    response = client.post("/sign-in/", sent, follow=True)
    assert response.redirect_chain[-1][0] == "/p/garden/work/"


def test_a_wrong_password_gets_a_plain_sentence(labeler: User) -> None:
    response = Client().post("/sign-in/", {"username": "lena", "password": "no"})
    assert "This user name and password do not match." in response.content.decode()


@pytest.mark.lockout
def test_after_five_failures_the_page_says_when_to_try_again(labeler: User) -> None:
    client = Client()
    for _ in range(5):
        response = client.post("/sign-in/", {"username": "lena", "password": "no"})
    assert response.status_code == 429
    text = response.content.decode()
    assert "Too many failed sign-ins. Try again in 15 minutes" in text
    until = re.search(r'<time datetime="([^"]+)" data-local="time">', text)
    assert until
    right = client.post("/sign-in/", {"username": "lena", "password": factories.PASSWORD})
    assert right.status_code == 429


def test_signing_out_takes_a_post(labeler: User) -> None:
    client = signed_in(labeler)
    assert client.get("/sign-out/").status_code == 405
    assert client.post("/sign-out/").url == "/sign-in/"  # type: ignore[attr-defined]
    assert client.get("/account/").url == "/sign-in/?next=/account/"  # type: ignore[attr-defined]


def test_sign_in_sends_nobody_to_a_foreign_site(labeler: User) -> None:
    sent = {
        "username": "lena",
        "password": factories.PASSWORD,
        "next": "https://evil.example/",
    }
    assert Client().post("/sign-in/", sent).url == "/"  # type: ignore[attr-defined]


# --- home


@pytest.mark.parametrize(
    ("role", "start"), [("labeler", "work"), ("admin", "rounds"), ("researcher", "data")]
)
def test_home_leads_to_where_the_role_works(project: Project, role: str, start: str) -> None:
    client = signed_in(factories.make_member(project, role))
    assert client.get("/").url == f"/p/garden/{start}/"  # type: ignore[attr-defined]


def test_several_projects_are_a_choice(project: Project, labeler: User) -> None:
    other = factories.make_project("orchard")
    Membership.objects.create(project=other, user=labeler, role=Role.RESEARCHER)
    text = page(signed_in(labeler), "/")
    assert 'href="/p/garden/"' in text
    assert 'href="/p/orchard/"' in text


def test_someone_in_no_project_is_told_what_to_do(db: None) -> None:
    assert "Ask an admin of a project for an invitation" in page(
        signed_in(factories.make_user()), "/"
    )


# --- accounts


def test_an_invite_makes_an_account_and_signs_it_in(project: Project) -> None:
    admin = factories.make_member(project, "admin")
    _, token = invite_create(project=project, role="labeler", by=admin)
    client = Client()
    address = reverse("invite", kwargs={"token": token})
    assert "Garden of answers" in page(client, address)
    sent = {
        "username": "mira",
        "full_name": "Mira Sol",
        "password": GOOD_PASSWORD,
        "password_again": GOOD_PASSWORD,
    }
    response = client.post(address, sent, follow=True)
    assert response.redirect_chain[-1][0] == "/p/garden/work/"
    assert Membership.objects.get(user__username="mira").role == Role.LABELER
    assert "This invitation no longer works" in page(Client(), address, status=410)


def test_an_invite_keeps_what_was_typed_and_says_what_is_wrong(
    project: Project, labeler: User
) -> None:
    admin = factories.make_member(project, "admin")
    _, token = invite_create(project=project, role="labeler", by=admin)
    sent = {"username": "LENA", "password": "short", "password_again": "other"}
    text = Client().post(reverse("invite", kwargs={"token": token}), sent).content.decode()
    assert "Someone has this user name already" in text
    assert "The two passwords differ" in text
    assert "at least 12 characters" in text
    assert 'value="LENA"' in text
    assert "short" not in re.findall(r'value="([^"]*)"', text)


def test_an_expired_invite_is_explained(project: Project) -> None:
    admin = factories.make_member(project, "admin")
    _, token = invite_create(project=project, role="labeler", by=admin)
    Invite.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    text = page(Client(), reverse("invite", kwargs={"token": token}), status=410)
    assert "Otherwise ask the person who invited you" in text


def test_a_reset_link_sets_a_new_password_once(project: Project, labeler: User) -> None:
    admin = factories.make_member(project, "admin")
    link = password_reset_link(membership=Membership.objects.get(user=labeler), by=admin)
    client = Client()
    form = client.get(link, follow=True)
    assert "Set a new password" in form.content.decode()
    sent = {"new_password1": GOOD_PASSWORD, "new_password2": GOOD_PASSWORD}
    done = client.post(form.redirect_chain[-1][0], sent, follow=True)
    assert "Your new password is set" in done.content.decode()
    labeler.refresh_from_db()
    assert labeler.check_password(GOOD_PASSWORD)
    again = Client().get(link, follow=True).content.decode()
    assert "This link no longer works" in again


def test_people_rename_themselves_and_see_their_roles(labeler: User) -> None:
    client = signed_in(labeler)
    client.post("/account/", {"full_name": "  Lena   Fjord "})
    labeler.refresh_from_db()
    assert labeler.get_full_name() == "Lena Fjord"
    text = page(client, "/account/")
    assert "Garden of answers" in text
    assert "Labeler" in text


def test_changing_the_password_needs_the_old_one_and_ends_other_sessions(labeler: User) -> None:
    here, elsewhere = signed_in(labeler), signed_in(labeler)
    wrong = {"old_password": "no", "new_password1": GOOD_PASSWORD, "new_password2": GOOD_PASSWORD}
    assert here.post("/account/password/", wrong).status_code == 200
    right = wrong | {"old_password": factories.PASSWORD}
    assert here.post("/account/password/", right).status_code == 302
    assert here.get("/account/").status_code == 200
    assert elsewhere.get("/account/").status_code == 302


# --- work


def test_the_first_visit_explains_itself(project: Project, labeler: User) -> None:
    round_ = factories.make_round(project)
    factories.make_task(round_)
    client = signed_in(labeler)
    assert "Welcome to Garden of answers" in page(client, "/p/garden/work/")
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    text = page(client, "/p/garden/work/")
    assert "Welcome" not in text
    assert "Go on" in text


def test_next_claims_a_task_and_leads_to_it(project: Project, labeler: User) -> None:
    factories.make_task(factories.make_round(project))
    response = signed_in(labeler).post("/p/garden/work/next/")
    claimed = Assignment.objects.get(labeler=labeler)
    assert response.url == f"/p/garden/task/{claimed.pk}/"  # type: ignore[attr-defined]


def test_a_task_says_which_one_it_is(project: Project, labeler: User) -> None:
    round_ = factories.make_round(project, quota=2)
    client = signed_in(labeler)
    for number in (1, 2):
        factories.make_task(round_)
        shown = client.post("/p/garden/work/next/", follow=True).content.decode()
        assert f"Round 1 · task {number} of 2" in shown
        held = Assignment.objects.get(labeler=labeler, state="leased")
        text_submit(
            assignment_id=held.pk, labeler=labeler, text="Tea.", client_id=factories.client_id()
        )
    type(round_).objects.update(quota=None)
    factories.make_task(round_)
    assert "task 3</span>" in client.post("/p/garden/work/next/", follow=True).content.decode()


def test_an_empty_queue_says_why(project: Project, labeler: User) -> None:
    client = signed_in(labeler)
    assert "No round is open" in page(client, "/p/garden/work/")
    round_ = factories.make_round(project)
    factories.make_task(round_, "ranking", state=Task.State.WAITING)
    assert "1 ranking task waits for the model" in page(client, "/p/garden/work/")
    Task.objects.update(state=Task.State.CLOSED)
    assert "You have done all there is" in page(client, "/p/garden/work/")


def test_the_day_is_counted(project: Project, labeler: User) -> None:
    factories.make_task(factories.make_round(project))
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    text_submit(
        assignment_id=claimed.pk, labeler=labeler, text="Tea.", client_id=factories.client_id()
    )
    assert "You have handed in 1 task today." in page(signed_in(labeler), "/p/garden/work/")


def claimed_ranking(project: Project, labeler: User) -> tuple[Task, Assignment]:
    task = factories.make_task(factories.make_round(project), "ranking")
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    return task, assignment


def test_a_ranking_page_shows_letters_and_texts_and_hides_who_wrote_them(
    project: Project, labeler: User
) -> None:
    task, assignment = claimed_ranking(project, labeler)
    text = page(signed_in(labeler), f"/p/garden/task/{assignment.pk}/")
    version = task.round.policy
    for sample in task.samples.all():
        assert f"Answer number {sample.index}" in text
        assert str(sample.seed) not in re.findall(r'"seed"[^,]*', text)
    assert version.sha256 not in text
    assert str(version.run_id) not in text
    assert re.findall(r'data-answer="(.)"', text) == list("ABCD")
    data = re.search(r'<script id="page-data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert data
    assert "sample" not in data[1]
    assert "version" not in data[1]


def test_hostile_answers_are_harmless_in_the_page(project: Project, labeler: User) -> None:
    task, assignment = claimed_ranking(project, labeler)
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)> ![p](https://t.example/p.png)"
    task.samples.update(text=hostile)
    task.prompt.text = hostile
    task.prompt.save()
    Assignment.objects.update(draft={"groups": [[hostile]]})
    text = page(signed_in(labeler), f"/p/garden/task/{assignment.pk}/")
    assert "<script>alert" not in text
    assert "<img" not in text


def test_an_empty_answer_says_so(project: Project, labeler: User) -> None:
    task, assignment = claimed_ranking(project, labeler)
    task.samples.update(text=" ")
    assert "This answer is empty." in page(signed_in(labeler), f"/p/garden/task/{assignment.pk}/")


@pytest.mark.parametrize(
    ("kind", "parts", "shown"),
    [
        (
            "few_shot",
            {
                "instruction": "Name the colour.",
                "pairs": [{"query": "sky", "response": "blue"}],
                "query": "moss",
            },
            ["Name the colour.", "Example 1", "sky", "blue", "To be answered", "moss"],
        ),
        (
            "user",
            {"stated_use_case": "I keep bees."},
            ["What this person wants to do", "I keep bees."],
        ),
    ],
)
def test_each_kind_of_prompt_is_shown_in_its_parts(
    project: Project, labeler: User, kind: str, parts: dict[str, object], shown: list[str]
) -> None:
    task = factories.make_task(factories.make_round(project))
    task.prompt.kind, task.prompt.parts = kind, parts
    task.prompt.save()
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    text = page(signed_in(labeler), f"/p/garden/task/{assignment.pk}/")
    at = [text.index(words) for words in shown]
    assert at == sorted(at)


def test_a_finished_task_leads_to_its_label(project: Project, labeler: User) -> None:
    factories.make_task(factories.make_round(project))
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    text_submit(
        assignment_id=assignment.pk, labeler=labeler, text="Tea.", client_id=factories.client_id()
    )
    response = signed_in(labeler).get(f"/p/garden/task/{assignment.pk}/")
    assert response.url == f"/p/garden/history/{assignment.pk}/"  # type: ignore[attr-defined]


def test_another_labelers_task_is_not_found(project: Project, labeler: User) -> None:
    _, assignment = claimed_ranking(project, labeler)
    other = factories.make_member(project)
    text = page(signed_in(other), f"/p/garden/task/{assignment.pk}/", status=404)
    assert "There is no such task among yours." in text


@pytest.mark.parametrize("role", ["admin", "researcher"])
def test_work_is_for_labelers(project: Project, role: str) -> None:
    client = signed_in(factories.make_member(project, role))
    text = page(client, "/p/garden/work/", status=403)
    assert "This page is not yours to see" in text
    assert client.post("/p/garden/work/next/").status_code == 403


def test_nobody_is_asked_to_sign_in_and_strangers_find_nothing(project: Project) -> None:
    assert Client().get("/p/garden/work/").url == "/sign-in/?next=/p/garden/work/"  # type: ignore[attr-defined]
    factories.make_project("orchard")
    stranger = factories.make_member(Project.objects.get(slug="orchard"))
    page(signed_in(stranger), "/p/garden/work/", status=404)


# --- the frame


def test_the_theme_chosen_by_hand_is_in_the_page_and_nothing_else_is(labeler: User) -> None:
    client = signed_in(labeler)
    client.cookies["theme"] = "dark"
    assert 'data-theme="dark"' in page(client, "/account/")
    client.cookies["theme"] = '"><script>'
    assert "data-theme=" not in page(client, "/account/").split("<body")[0]


def test_every_page_works_under_the_policy_without_inline_script_or_style() -> None:
    inline = re.compile(
        r"\sstyle=|\son[a-z]+=|<style|javascript:|<script(?![^>]*\ssrc=)", re.IGNORECASE
    )
    for template in Path(django_settings.BASE_DIR, "templates").rglob("*.html"):
        found = inline.search(template.read_text(encoding="utf-8"))
        assert found is None, f"{template.name}: {found}"


def test_every_icon_that_a_template_names_is_there() -> None:
    icons = Path(django_settings.NODE_MODULES, "lucide-static", "icons")
    root = Path(django_settings.BASE_DIR)
    texts = [
        path.read_text(encoding="utf-8") for path in root.joinpath("templates").rglob("*.html")
    ]
    named = {name for text in texts for name in re.findall(r'{% icon "([^"]+)" %}', text)}
    assert named
    assert [name for name in sorted(named) if not (icons / f"{name}.svg").is_file()] == []
