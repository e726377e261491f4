"""What goes wrong in a day of labeling, in Chromium: races, a dead network, a killed tab, a lapsed lease."""

from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Demonstration, Ranking, Task
from labelapp.services.assignments import assignments_lapse
from tests import factories
from tests.browser import watched
from tests.e2e.labeling import Desk, desk, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

ORDER = "A is best, then B, then C, then D."


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


def work_on(page: Page, kind: str) -> None:
    """Write or rank everything, by keyboard."""
    if kind == "demonstration":
        page.locator("#answer").fill("Warm the pot first.")
    else:
        page.keyboard.type("a1b2c3d4")


def expect_worked(page: Page, kind: str) -> None:
    if kind == "demonstration":
        expect(page.locator("#answer")).to_have_value("Warm the pot first.")
    else:
        expect(page.locator("#says")).to_have_text(ORDER)


def labels(kind: str) -> Any:
    return (Demonstration if kind == "demonstration" else Ranking)._default_manager


def kill(page: Page) -> None:
    """End the tab's process: no handler of the page runs."""
    with suppress(Error):
        page.goto("chrome://crash", timeout=3_000)


# --- races


def test_two_labelers_racing_for_one_task_get_it_once(
    at_desk: Desk, browser: Browser, live_server: LiveServer
) -> None:
    task = at_desk.task("demonstration")
    factories.make_member(at_desk.project, "labeler", "rival")
    with watched(browser) as rival:
        sign_in(rival, live_server.url, "rival")
        pages = (at_desk.page, rival)
        for page in pages:
            page.goto(f"{live_server.url}/p/garden/work/")
        for page in pages:  # both press at one moment, while nobody waits for an answer
            page.evaluate("setTimeout(() => document.getElementById('next').click(), 400)")
        for page in pages:
            page.wait_for_selector(
                "#answer, #messages :text('There is no task for you right now.')"
            )
        winners = [page for page in pages if "/task/" in page.url]
        assert len(winners) == 1
        assert Assignment.objects.count() == 1
        winners[0].locator("#answer").fill("First.")
        winners[0].keyboard.press("Control+Enter")
        winners[0].wait_for_url("**/work/")
    task.refresh_from_db()
    assert (task.taken, task.submitted) == (1, 1)


# --- the network


@pytest.mark.parametrize("kind", ["demonstration", "ranking"])
def test_a_submit_without_a_network_waits_and_comes_through_once(at_desk: Desk, kind: str) -> None:
    at_desk.task(kind)
    at_desk.take()
    page = at_desk.page
    work_on(page, kind)
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    page.context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#task-notice")).to_contain_text("No connection. Nothing is lost")
    expect(page.locator("#saved")).to_have_attribute("data-state", "offline")
    assert labels(kind).count() == 0
    expect_worked(page, kind)
    page.context.set_offline(False)
    page.wait_for_url("**/work/")
    assert labels(kind).count() == 1


def test_typed_while_the_network_drops_it_never_says_saved(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    saved = page.locator("#saved")
    page.locator("#answer").press_sequentially("Before. ", delay=20)
    expect(saved).to_have_attribute("data-state", "saved")
    page.context.set_offline(True)
    page.locator("#answer").press_sequentially("Meanwhile.", delay=20)
    expect(saved).to_have_attribute("data-state", "offline")
    page.wait_for_timeout(1_500)
    expect(saved).to_have_attribute("data-state", "offline")
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Before. "
    page.context.set_offline(False)
    expect(saved).to_have_attribute("data-state", "saved")
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Before. Meanwhile."


# --- the tab


@pytest.mark.parametrize("kind", ["demonstration", "ranking"])
def test_all_is_there_after_the_tab_was_killed(at_desk: Desk, kind: str) -> None:
    at_desk.task(kind)
    at_desk.take()
    page, context = at_desk.page, at_desk.page.context
    work_on(page, kind)
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    kill(page)
    again = context.new_page()
    again.goto(f"{at_desk.url}/p/garden/work/")
    again.get_by_role("button", name="Go on").click()
    expect_worked(again, kind)
    again.keyboard.press("Control+Enter")
    again.wait_for_url("**/work/")
    assert labels(kind).count() == 1


def test_a_tab_killed_while_its_submit_waits_loses_nothing(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page, context = at_desk.page, at_desk.page.context
    for name in ("draft", "submit"):  # of this tab; a context that is offline outlives no crash
        page.route(f"**/{name}/", lambda route: route.abort())
    work_on(page, "demonstration")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#task-notice")).to_contain_text("No connection. Nothing is lost")
    task = page.url
    kill(page)
    again = context.new_page()
    again.goto(task)
    expect_worked(again, "demonstration")
    again.keyboard.press("Control+Enter")
    again.wait_for_url("**/work/")
    assert Demonstration.objects.get().text == "Warm the pot first."


# --- the lease


@pytest.mark.parametrize("kind", ["demonstration", "ranking"])
def test_a_late_answer_is_taken_where_its_place_is_free(
    at_desk: Desk, settings: Settings, kind: str
) -> None:
    settings.LEASE_SECONDS = 3
    task = at_desk.task(kind)
    assignment = at_desk.take()
    page = at_desk.page
    notice = page.locator("#task-notice")
    expect(notice).to_contain_text("goes back to the others")
    expect(notice).to_contain_text("Your time on this task ran out", timeout=10_000)
    assert assignments_lapse() == 1
    assert Task.objects.get(pk=task.pk).taken == 0
    settings.LEASE_SECONDS = 600
    work_on(page, kind)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert not labels(kind).get().surplus
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.SUBMITTED
