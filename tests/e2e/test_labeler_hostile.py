"""Hostile content and odd habits on the labelers' pages, in Chromium: nothing breaks, runs or is lost."""

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Demonstration, Prompt, Sample
from tests.browser import watched
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> [here](javascript:alert(3)) ![p](http://127.0.0.1:9/p.png)",
    "W" * 3_000 + "\n\n```\n" + "long line of code " * 300 + "\n```\n\n" + "word " * 6_000,
    "\u202eturned around\u202c \U0001f468\u200d\U0001f469\u200d\U0001f467 e"
    + "\u0301" * 400
    + " مرحبا 你好",
    "|"
    + "a|" * 60
    + "\n|"
    + "-|" * 60
    + "\n|"
    + "b|" * 60
    + "\n\n"
    + "> " * 80
    + "deep"
    + "\n- " * 90,
)


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


def saved(page: Page) -> None:
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_prompts_and_answers_are_only_text(
    browser: Browser, live_server: LiveServer, width: int
) -> None:
    asked: list[str] = []
    dialogs: list[str] = []
    with watched(browser, viewport={"width": width, "height": 844}) as page:
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        at_desk = desk(page, live_server)
        task = at_desk.task("ranking")
        for sample, text in zip(task.samples.order_by("index"), HOSTILE, strict=True):
            Sample.objects.filter(pk=sample.pk).update(text=text)
        Prompt.objects.filter(pk=task.prompt_id).update(text="\n".join(HOSTILE))
        at_desk.take()
        page.keyboard.type("a1b2c3d4")
        expect(page.locator("#submit")).to_be_enabled()
        wide, narrow = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= narrow, "it scrolls sideways"
        assert complaints(page) == []
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/work/")
        page.goto(f"{at_desk.url}/p/garden/history/")
        page.locator(".past-prompt").click()
        page.locator("details.raw summary").click()
        wide, narrow = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= narrow, "the history scrolls sideways"
    assert not dialogs
    assert [url for url in asked if not url.startswith(live_server.url)] == []


def test_half_an_emoji_is_saved_and_handed_in(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    page.locator("#answer").evaluate(
        "field => { field.value = 'Tea \\ud83d and \U0001f375.';"
        " field.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    saved(page)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Tea \ufffd and \U0001f375."
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert Demonstration.objects.get().text == "Tea \ufffd and \U0001f375."


def test_a_longest_text_of_emoji_is_saved_and_handed_in(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    text = "\U0001f375" * 30_000  # as many as the field takes
    page.locator("#answer").fill(text)
    saved(page)
    page.reload()
    expect(page.locator("#answer")).to_have_value(text)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert Demonstration.objects.get().text == text


def test_a_second_window_does_not_write_over_what_the_first_wrote(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    first = at_desk.page
    second = first.context.new_page()
    second.goto(first.url)
    expect(second.locator("#saved")).not_to_be_empty()
    first.locator("#answer").fill("A long answer.")
    saved(first)
    second.locator("#answer").fill("x")
    expect(second.locator("#task-notice")).to_contain_text("in another window")
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "A long answer."
    first.locator("#answer").fill("A long answer, and more.")
    saved(first)
    second.reload()
    expect(second.locator("#answer")).to_have_value("A long answer, and more.")
    second.locator("#answer").fill("Gone on with in the second.")
    saved(second)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Gone on with in the second."


def test_back_after_a_submit_shows_what_was_handed_in(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    first = at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("Once.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    page.go_back()
    page.wait_for_url(f"**/history/{first.pk}/")
    expect(page.locator(".version")).to_contain_text("Once.")
    assert Demonstration.objects.count() == 1


def test_two_quick_submits_count_once(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.task("demonstration")
    first = at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("Twice?")
    page.evaluate("for (let n = 0; n < 3; n += 1) document.getElementById('submit').click();")
    page.wait_for_url(lambda now: "/task/" in now and str(first.pk) not in now)
    assert Demonstration.objects.count() == 1
    assert Assignment.objects.count() == 2


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_set_while_one_writes_changes_nothing(at_desk: Desk, hours: int) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    page.evaluate(f"const now = Date.now; Date.now = () => now() + {hours} * 3600e3;")
    page.wait_for_timeout(2_200)
    page.locator("#answer").fill("What time is it?")
    saved(page)
    expect(page.locator("#task-notice")).to_be_hidden()
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "What time is it?"
    assert 0 <= assignment.active_ms < 60_000
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")


def test_without_storage_and_without_tls_one_works_all_the_same(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    page = at_desk.page
    page.add_init_script(
        "delete Crypto.prototype.randomUUID;"
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden'); }});"
    )
    at_desk.take()
    page.locator("#answer").fill("No trace.")
    saved(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert Demonstration.objects.get().text == "No trace."


def test_signed_in_again_in_another_window_one_goes_on_in_this_one(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page, notice = at_desk.page, at_desk.page.locator("#task-notice")
    other = page.context.new_page()
    Session.objects.all().delete()
    page.locator("#answer").fill("Half an hour of work.")
    expect(notice).to_contain_text("You are signed out.")
    sign_in(other, at_desk.url, "lena")
    page.locator("#answer").fill("Half an hour of work, and more.")
    saved(page)
    expect(notice).to_be_hidden()
    Session.objects.all().delete()
    page.keyboard.press("Control+Enter")
    expect(notice).to_contain_text("You are signed out.")
    sign_in(other, at_desk.url, "lena")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert Demonstration.objects.get().text == "Half an hour of work, and more."
