"""Every page of a labeler, light and dark, wide and narrow: accessible, within its width, under the policy."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Task
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.people import invite_create
from tests import factories
from tests.browser import watched
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1440, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
Scheme = Literal["light", "dark"]


@pytest.fixture(params=["desktop", "phone"])
def size(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SIZES[request.param]


@pytest.fixture(params=["light", "dark"])
def fresh_page(
    browser: Browser, size: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A page of that size and theme; what the policy blocks and what scripts throw fails the test."""
    with watched(browser, **size, color_scheme=request.param) as page:
        yield page


def fine(page: Page, where: str) -> None:
    """Nothing to complain about, and nothing to scroll sideways to."""
    assert complaints(page) == [], where
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"{where} is wider than the screen"


def test_axe_would_find_a_fault(fresh_page: Page, live_server: LiveServer) -> None:
    fresh_page.goto(f"{live_server.url}/sign-in/")
    fresh_page.evaluate("document.querySelector('label').remove()")
    assert any("label" in line for line in complaints(fresh_page))


def test_the_door_is_open_to_everyone(fresh_page: Page, live_server: LiveServer) -> None:
    project = factories.make_project()
    admin = factories.make_member(project, "admin")
    _, token = invite_create(project=project, role="labeler", by=admin)
    places = {
        "sign-in": "/sign-in/",
        "invitation": f"/invite/{token}/",
        "used invitation": "/invite/none/",
        "dead reset link": "/reset/MQ/none/",
        "nothing there": "/nothing/",
    }
    for name, path in places.items():
        fresh_page.goto(f"{live_server.url}{path}")
        fine(fresh_page, name)
    fresh_page.goto(f"{live_server.url}/sign-in/")
    fresh_page.get_by_label("User name").fill("nobody")
    fresh_page.get_by_label("Password").fill("wrong")
    fresh_page.get_by_role("button", name="Sign in").click()
    expect(fresh_page.get_by_role("alert")).to_be_visible()
    fine(fresh_page, "a wrong password")


def test_the_work_pages_are(fresh_page: Page, live_server: LiveServer) -> None:
    at_desk = desk(fresh_page, live_server)
    work = f"{at_desk.url}/p/garden/work/"
    fine(fresh_page, "nothing to do")
    task = at_desk.task("demonstration")
    fresh_page.goto(work)
    fine(fresh_page, "first visit")
    for name, kind, parts in (
        ("user", "user", {"stated_use_case": "I keep bees."}),
        (
            "few-shot",
            "few_shot",
            {"instruction": "Say it.", "pairs": [{"query": "a", "response": "b"}], "query": "c"},
        ),
    ):
        type(task.prompt).objects.filter(pk=task.prompt_id).update(kind=kind, parts=parts)
        at_desk.take()
        fine(fresh_page, f"writing, {name}")
    fresh_page.goto(work)
    fine(fresh_page, "work in hand")
    for path in ("/account/", "/account/password/", "/p/garden/rounds/", "/p/none/work/"):
        fresh_page.goto(f"{at_desk.url}{path}")
        fine(fresh_page, path)


def test_the_ranking_page_is_with_all_its_dialogs(
    fresh_page: Page, live_server: LiveServer
) -> None:
    at_desk = desk(fresh_page, live_server)
    at_desk.task("ranking")
    at_desk.take()
    fine(fresh_page, "ranking, nothing placed")
    fresh_page.locator("[data-answer=B] [data-put='1']").click()
    fresh_page.locator("[data-answer=C] [data-put='1']").click()
    fine(fresh_page, "ranking, half done")
    fresh_page.locator("[data-dialog=skip]").click()
    fine(fresh_page, "skip dialog")
    fresh_page.keyboard.press("Escape")
    fresh_page.locator("[data-dialog=instructions]").click()
    fine(fresh_page, "instructions")
    fresh_page.keyboard.press("Escape")
    fresh_page.keyboard.press("?")
    fine(fresh_page, "keys")
    fresh_page.keyboard.press("Escape")
    fresh_page.locator("details.menu:not(.nav-menu) > summary").click()
    fine(fresh_page, "account menu")


def test_what_comes_beside_and_after_the_work_is(
    fresh_page: Page, live_server: LiveServer, settings: Settings
) -> None:
    settings.LABEL_GRACE_SECONDS = 60
    at_desk = desk(fresh_page, live_server)
    at_desk.task("demonstration")
    done = at_desk.take()
    fresh_page.locator("#break-hint").evaluate("hint => (hint.hidden = false)")
    fine(fresh_page, "a break is hinted at")
    fresh_page.locator("[data-dialog=concern]").click()
    fine(fresh_page, "ask or flag")
    fresh_page.keyboard.press("Escape")
    fresh_page.locator("header [data-pause], .topbar [data-pause]").first.click()
    fine(fresh_page, "paused")
    fresh_page.keyboard.press("Escape")
    fresh_page.locator("#answer").fill("Tea, four minutes.")
    fresh_page.locator("#submit").click()
    fresh_page.wait_for_url("**/work/")
    fine(fresh_page, "work, with an undo")
    for path in ("history/", f"history/{done.pk}/"):
        fresh_page.goto(f"{at_desk.url}/p/garden/{path}")
        fine(fresh_page, path)


def test_nine_answers_fit_too(fresh_page: Page, live_server: LiveServer) -> None:
    at_desk = desk(fresh_page, live_server)
    type(at_desk.round).objects.filter(pk=at_desk.round.pk).update(k=9)
    at_desk.round.refresh_from_db()
    at_desk.task("ranking")
    at_desk.take()
    for place in range(1, 10):
        fresh_page.keyboard.press("ABCDEFGHI"[place - 1].lower())
        fresh_page.keyboard.press(str(place))
    expect(fresh_page.locator("#submit")).to_be_enabled()
    fine(fresh_page, "nine answers")


def test_dark_chosen_by_hand_stays_and_system_takes_it_back(
    watched_page: Page, live_server: LiveServer
) -> None:
    page = watched_page
    page.emulate_media(color_scheme="light")
    page.goto(f"{live_server.url}/sign-in/")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="System").click()
    page.reload()
    assert page.evaluate(paper) == light


def test_enter_takes_the_next_task_and_the_first_stop_is_the_skip_link(
    watched_page: Page, live_server: LiveServer
) -> None:
    at_desk: Desk = desk(watched_page, live_server)
    at_desk.task("demonstration")
    watched_page.goto(f"{at_desk.url}/p/garden/work/")
    watched_page.keyboard.press("Tab")
    expect(watched_page.get_by_role("link", name="Skip to the content")).to_be_focused()
    watched_page.evaluate("document.activeElement.blur()")
    watched_page.keyboard.press("Enter")
    at_desk.arrived()


def test_two_tabs_of_one_labeler_share_one_task(
    watched_page: Page, live_server: LiveServer
) -> None:
    at_desk = desk(watched_page, live_server)
    at_desk.task("demonstration")
    at_desk.task("demonstration")
    first = at_desk.take()
    assert at_desk.take().pk == first.pk
    assert Assignment.objects.count() == 1


def test_two_labelers_never_get_the_same_place(watched_page: Page, live_server: LiveServer) -> None:
    at_desk = desk(watched_page, live_server)
    task = at_desk.task("demonstration")
    watched_page.goto(f"{at_desk.url}/p/garden/work/")
    other = factories.make_member(at_desk.project)
    assert assignment_claim_next(project=at_desk.project, labeler=other) is not None
    watched_page.locator("#next").click()
    expect(watched_page.locator("#messages")).to_contain_text("There is no task for you right now.")
    assert Task.objects.get(pk=task.pk).taken == 1
