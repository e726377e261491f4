"""What holds on every page of a labeler: the theme chosen by hand, the first Tab stop, one task for two tabs."""

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Task
from labelapp.services.assignments import assignment_claim_next
from tests import factories
from tests.e2e.labeling import Desk, desk

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


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
