"""Every page there is, for every role, empty states and refusals included: what each must stand is in visitor.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.tokens import default_token_generator
from django.core.cache import cache
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import (
    RATING_FIELDS,
    Assignment,
    Project,
    Prompt,
    Round,
    Run,
    Task,
    User,
)
from labelapp.services.people import invite_create
from tests import factories
from tests.e2e.in_hand import ARABIC, FEW_SHOT, TURNS, hand, prompt_task
from tests.e2e.test_admin_pages import running
from tests.e2e.visitor import Visitor, visitor
from tests.labelapp.steering_cast import demonstrate, make_cast, rank, signed_in
from tests.labelapp.test_scores import sampled, scoring_of, trained_reward_models
from tests.pages import NO_PAGES, PAGES, addresses, parts

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_every_address_is_on_the_list_of_pages_or_is_no_page(store: Path) -> None:
    client = signed_in(factories.make_member(factories.make_project(), "admin"))
    unlisted = [name for name in addresses() if name not in {*PAGES, *NO_PAGES}]
    pages = {
        name
        for name in unlisted
        if client.get(reverse(name, kwargs=parts(name))).status_code != 405  # takes a POST alone
    }
    assert not pages, "name them in tests/pages.py, and visit them below"
    assert {*PAGES, *NO_PAGES} <= set(addresses()), "the list names what is gone"


SEEN: set[str] = set()
VISITS: set[str] = set()


@pytest.fixture
def who(
    browser: Browser, live_server: LiveServer, store: Path, request: pytest.FixtureRequest
) -> Iterator[Visitor]:
    """A visitor whose faults fail the test, all of them at once."""
    with visitor(browser, live_server.url) as made:
        yield made
    SEEN.update(made.seen)
    VISITS.add(request.node.originalname)
    assert made.faults == []


def test_the_visitor_would_see_a_fault(browser: Browser, live_server: LiveServer) -> None:
    with visitor(browser, live_server.url) as who:
        who.page.goto(f"{live_server.url}/sign-in/")
        who.page.evaluate(
            """() => {
                document.querySelector("label").remove();
                document.title = "labelapp";
                document.querySelector("h1").remove();
                document.querySelector("main form").insertAdjacentHTML(
                    "beforeend", '<button class="bad">x</button>');
                const bad = new CSSStyleSheet();
                bad.replaceSync(".bad {min-width: 500px; height: 20px} .bad:focus {outline: none}");
                document.adoptedStyleSheets = [bad];
                console.log("hello");
            }"""
        )
        who.look("sign in")
    found = "\n".join(who.faults)
    for fault in ("label at", "title", "headings", "px wide", "high", "has the focus", "console"):
        assert fault in found, fault


# --- nobody yet


def test_the_door(who: Visitor) -> None:
    project = factories.make_project("door")
    person = factories.make_member(project, "admin", "dora")
    _, token = invite_create(project=project, role="labeler", by=person)
    uid = urlsafe_base64_encode(force_bytes(person.pk))
    who.be(None)
    who.go("/sign-in/")
    who.page.get_by_label("User name").fill("nobody")
    who.page.get_by_label("Password").fill("wrong")
    who.page.get_by_role("button", name="Sign in").click()
    expect(who.page.get_by_role("alert")).to_be_visible()
    who.look("a wrong password")
    who.go(f"/invite/{token}/", "an invitation")
    who.page.locator("[name=username]").fill("dora")
    for secret in who.page.locator("input[type=password]").all():
        secret.fill("12345")
    who.page.locator("main button.primary").click()
    who.page.wait_for_load_state()
    who.look("an invitation, filled in wrongly")
    who.go("/invite/used/", "an invitation that was used", status=410)
    who.go(f"/reset/{uid}/none/", "a link for a password that was used")
    good = default_token_generator.make_token(person)
    who.go(f"/reset/{uid}/{good}/", "a new password")


def test_empty_pages(who: Visitor) -> None:
    """A person in no project and one in two; a project in which nothing has happened."""
    who.be(factories.make_user("nemo"))
    who.go("/", "in no project")
    who.go("/account/", "account, in no project")
    who.go("/account/password/", "a password to change")
    hall = factories.make_project("hall")
    both = factories.make_member(hall, "admin", "boris")
    factories.make_member(factories.make_project("attic"))
    factories.Membership.objects.create(
        project=Project.objects.get(slug="attic"), user=both, role="labeler"
    )
    who.be(both)
    who.go("/", "two projects")
    for name in ("rounds", "models", "prompts", "instructions", "concerns", "people", "data"):
        who.go(reverse(name, args=["hall"]), f"{name}, empty")
    who.go("/p/hall/rounds/new/", "no model to open a round with")
    who.go("/p/hall/prompts/?words=nothing", "no prompt found")
    who.go("/p/hall/people/?words=nothing", "nobody found")
    who.go("/p/attic/work/", "no round is open")
    who.go("/p/attic/live/", "no live prompting")
    who.go("/p/attic/history/", "no history")


# --- admins and researchers


def test_pages_of_admins(who: Visitor, settings: Settings) -> None:
    cast = make_cast()
    who.be(cast.people["admin"])
    running(cast.run, step=3)
    factories.make_member(cast.project, "labeler", "a-very-long-user-name-that-nobody-chose")
    Prompt.objects.filter(project=cast.project).update(sensitive=["violence"])
    Prompt.objects.filter(pk=factories.make_prompts(cast.project, 1)[0].pk).update(text=ARABIC)
    for path in (
        "rounds/",
        "rounds/1/",
        "rounds/new/",
        f"trainings/{cast.training.pk}/",
        "models/",
        f"models/{cast.version.pk}/",
        "prompts/",
        "prompts/upload/",
        f"uploads/{cast.upload.pk}/",
        "instructions/",
        "instructions/1/",
        "concerns/",
        "concerns/?show=flags",
        "concerns/?show=answered",
        "people/",
        "data/",
    ):
        who.go(f"/p/garden/{path}")
        if path == "rounds/1/":
            who.page.get_by_role("button", name="Close the round").click()
            who.look("asked before a round is closed", part=True)
        if path == f"trainings/{cast.training.pk}/":
            who.page.locator("[data-chart] summary").first.click()
            who.look("a chart as a table", part=True)
        if path == "people/":
            who.page.get_by_role("button", name="Change").first.click()
            who.look("a person's dialog", part=True)
    broken = b'{"text": ""}\n{"text": "Fine."}\n{"text": "Fine."}\n'
    who.at("an upload with errors", refused=True)
    who.page.goto(f"{who.host}/p/garden/prompts/upload/")
    file = {"name": "own.jsonl", "mimeType": "application/jsonl", "buffer": broken}
    who.page.locator("input[type=file]").set_input_files(file)  # type: ignore[arg-type]
    who.page.get_by_role("button", name="Look at it first").click()
    who.page.wait_for_url("**/uploads/*/")
    who.look()
    Run.objects.filter(pk=cast.run.pk).update(
        state="failed", error="Killed.", lease_token=None, lease_until=None
    )
    cast.training.state = "failed"
    cast.training.finished_at = timezone.now()
    cast.training.save()
    who.go(f"/p/garden/trainings/{cast.training.pk}/", "a training that failed")
    export = f"/p/garden/data/{cast.snapshot.name}/native/"
    rates = settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]
    settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | {
        "DEFAULT_THROTTLE_RATES": rates | {"export": "1/hour"}
    }
    cache.clear()
    signed_in(cast.people["admin"]).get(export)
    who.go(export, "too many exports", status=429)


def test_pages_of_a_round_in_active_order(who: Visitor) -> None:
    project = factories.make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    who.be(factories.make_member(project, "admin"))
    running(run, step=3)
    who.go("/p/garden/rounds/2/", "a round whose answers are being scored")
    Run.objects.filter(pk=run.pk).update(
        state="failed", error="Killed.", lease_token=None, lease_until=None
    )
    who.go("/p/garden/rounds/2/", "a round whose scoring failed")


def test_pages_of_researchers(who: Visitor) -> None:
    """The same pages without the buttons of an admin."""
    cast = make_cast()
    running(cast.run, step=3)
    who.be(cast.people["researcher"])
    for path in (
        "rounds/",
        "rounds/1/",
        f"trainings/{cast.training.pk}/",
        "models/",
        f"models/{cast.version.pk}/",
        "data/",
    ):
        who.go(f"/p/garden/{path}", f"{path} of a researcher")


# --- labelers: each kind of task in the hands of someone of its own


def on(who: Visitor, held: Assignment, name: str) -> Page:
    """Its labeler goes to its page."""
    who.be(User.objects.get(pk=held.labeler_id))
    who.go(reverse("task", args=[held.task.project.slug, held.pk]), name)
    return who.page


def test_pages_of_labelers(who: Visitor) -> None:
    project = factories.make_project()
    round_ = factories.make_round(project)
    who.be(factories.make_member(project))
    who.go("/p/garden/work/", "nothing left to do")
    factories.make_task(round_, "demonstration")
    who.go("/p/garden/work/", "a first visit")
    Task.objects.filter(project=project, assignments__isnull=True).delete()
    Round.objects.filter(pk=round_.pk).update(live_prompting=True)
    who.go("/p/garden/live/")
    for name, prompt in (
        ("plain", {"text": ARABIC}),
        ("user-based", {"kind": "user", "parts": {"stated_use_case": "I keep bees."}}),
        ("few-shot", {"kind": "few_shot", "parts": FEW_SHOT}),
        ("a conversation", {"parts": {"messages": TURNS}}),
        ("covered", {"sensitive": ["violence"]}),
    ):
        page = on(who, hand(round_, "demonstration", prompt), f"writing, {name}")
        if name == "plain":
            dialogs(who, page)
            page.keyboard.press("Control+.")
            who.look("the preview", part=True)
            who.go("/p/garden/work/", "work in hand")
    for kind, brief in (("few_shot", ""), ("user", "I sell bicycles.")):
        on(who, prompt_task(round_, kind, brief), f"writing a prompt, {kind}")
    page = on(who, hand(round_, "ranking"), "ranking")
    page.locator("[data-answer=B] [data-put='1']").click()
    page.locator("[data-answer=C] [data-put='1']").click()
    who.look("ranking, half done", part=True)
    page.locator("#compare").click()
    expect(page.locator("#difference-words")).not_to_be_empty()
    who.look("two answers compared", part=True)


def dialogs(who: Visitor, page: Page) -> None:
    """All that opens over a task page: Escape closes it, and the focus goes back to where it was."""
    page.locator("#break-hint").evaluate("hint => (hint.hidden = false)")
    who.look("a hint at a break", part=True)
    for name in ("Skip…", "Instructions", "Ask or flag"):
        opener = page.get_by_role("button", name=name).first
        opener.click()
        expect(page.locator("dialog[open]")).to_be_visible()
        who.look(f"behind {name}", part=True)
        page.keyboard.press("Escape")
        expect(page.locator("dialog[open]")).to_have_count(0)
        expect(opener).to_be_focused()
    page.locator(".topbar [data-pause]").click()
    who.look("paused", part=True)
    page.keyboard.press("Escape")
    menu = page.locator("details.menu:not(.nav-menu) > summary")
    menu.click()
    who.look("the account's menu", part=True)
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    page.locator("body").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    who.look("the keys", part=True)
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_rating_and_ranking_of_nine(who: Visitor) -> None:
    """Rounds that ask for more: ratings of nine answers, one's own answer first."""
    round_ = factories.make_round(
        factories.make_project("orchard"),
        k=9,
        rating_fields=list(RATING_FIELDS),
        strength_asked=True,
    )
    held = hand(round_, "ranking")
    page = on(who, held, "rating")
    page.keyboard.press("5")
    page.keyboard.press("h")
    who.look("rating, half done", part=True)
    Round.objects.filter(pk=round_.pk).update(rating_fields=[])
    on(who, held, "nine answers")
    for place, letter in enumerate("abcdefghi", start=1):
        page.keyboard.press(letter)
        page.keyboard.press(str(place))
    expect(page.locator("#submit")).to_be_enabled()
    who.look("nine answers ranked", part=True)
    first = factories.make_round(factories.make_project("meadow"), write_first=True)
    on(who, hand(first, "ranking"), "one's own answer first")


def test_what_comes_after_a_submit(who: Visitor, settings: Settings) -> None:
    """What comes after a submit: the offer to undo, the history, an admin's answer."""
    settings.LABEL_GRACE_SECONDS = 120
    project = factories.make_project("yard")
    round_ = factories.make_round(project)
    labeler_ = factories.make_member(project, "labeler", "yara")
    factories.make_task(round_, "ranking")
    rank(project, labeler_)
    factories.make_task(round_, "demonstration")
    demonstrate(project, labeler_, ARABIC)
    who.be(labeler_)
    who.go("/p/yard/work/", "work, with an undo")
    who.go("/p/yard/history/", "history")
    for each in Assignment.objects.filter(labeler=labeler_):
        who.go(f"/p/yard/history/{each.pk}/", f"history of a {each.task.kind}")
    Round.objects.filter(pk=round_.pk).update(quota=1)
    who.go("/p/yard/work/", "a quota reached")


# --- refusals


def test_refusals(who: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    project = factories.make_project()
    who.be(factories.make_member(project))
    who.go("/p/garden/rounds/", "not for this role", status=403)
    who.go("/p/none/work/", "not a project", status=404)
    who.at("an address that takes a form", refused=True)
    who.page.goto(f"{who.host}/p/garden/work/next/")
    who.look()
    who.at("nowhere", refused=True)
    who.page.goto(f"{who.host}/nowhere/")
    who.look()
    who.be(factories.make_member(project, "admin"))
    for name, token in (("a bad request", True), ("a stale form", False)):
        who.page.goto(f"{who.host}/p/garden/data/")
        who.at(name, refused=True)
        who.page.evaluate(
            """(token) => {
                const form = document.querySelector("form[action$='/freeze/']");
                if (token) form.querySelectorAll("[name=kind]").forEach((each) => each.remove());
                else form.querySelector("[name=csrfmiddlewaretoken]").value = "stale";
                form.submit();
            }""",
            token,
        )
        who.page.wait_for_url("**/freeze/")
        who.look()

    def broken(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("labelapp.views.data.label_counts", broken)
    who.go("/p/garden/data/", "broken", status=500)


def test_every_page_was_visited() -> None:
    """Last in this file."""
    if len(VISITS) < 8:
        pytest.skip("only some of the visits were made")
    assert set(PAGES) <= SEEN, "listed, but not visited"
