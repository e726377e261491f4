"""Writing a demonstration in Chromium: what is typed is never lost, and counts once."""

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import Page, Route, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Demonstration
from labelapp.services.assignments import assignment_claim_next, assignments_lapse
from tests import factories
from tests.e2e.labeling import Desk, desk, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


def saved(page: Page) -> None:
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")


def test_a_draft_is_on_the_server_within_a_second_and_back_after_the_tab_is_gone(
    at_desk: Desk,
) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    page.locator("#answer").press_sequentially("Warm the pot first.")
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved", timeout=2_000)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Warm the pot first."
    expect(page.locator("#word-count")).to_have_text("4 words")

    page.goto("about:blank")
    page.goto(f"{at_desk.url}/p/garden/work/")
    page.get_by_role("button", name="Go on").click()
    at_desk.arrived()
    expect(page.locator("#answer")).to_have_value("Warm the pot first.")


def test_what_was_typed_a_moment_ago_is_saved_on_leaving(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    at_desk.page.locator("#answer").fill("Typed and left at once.")
    at_desk.page.goto(f"{at_desk.url}/p/garden/work/")
    at_desk.page.wait_for_timeout(500)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Typed and left at once."


def test_without_a_network_the_text_stays_on_the_device_and_is_saved_later(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    page.context.set_offline(True)
    page.locator("#answer").fill("Written in a tunnel.")
    expect(page.locator("#saved")).to_have_text("Offline. Kept on this device")
    task = page.url
    page.close()

    page.context.set_offline(False)
    again = page.context.new_page()
    again.goto(task)
    expect(again.locator("#answer")).to_have_value("Written in a tunnel.")
    saved(again)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Written in a tunnel."


def test_typing_offline_is_saved_by_itself_once_online(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    page.context.set_offline(True)
    page.locator("#answer").fill("Back in a minute.")
    expect(page.locator("#saved")).to_have_attribute("data-state", "offline")
    page.context.set_offline(False)
    saved(page)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Back in a minute."


def test_one_who_types_without_a_pause_is_saved_meanwhile(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    at_desk.page.locator("#answer").press_sequentially("word " * 12, delay=40)
    assignment.refresh_from_db()
    assert assignment.draft["text"].startswith("word")


def test_signed_out_meanwhile_one_is_told_and_loses_nothing(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    Session.objects.all().delete()
    page.locator("#answer").fill("Written after the session ended.")
    expect(page.locator("#task-notice")).to_contain_text("You are signed out.")
    sign_in(page, at_desk.url, "lena")
    page.get_by_role("button", name="Go on").click()
    at_desk.arrived()
    expect(page.locator("#answer")).to_have_value("Written after the session ended.")
    saved(page)
    assignment.refresh_from_db()
    assert assignment.draft["text"] == "Written after the session ended."


def test_a_submit_whose_answer_got_lost_is_sent_again_and_counts_once(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.task("demonstration")
    first = at_desk.take()
    page = at_desk.page
    lost: list[str] = []

    def lose_first(route: Route) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.request.post_data or "")
        route.fetch()
        route.abort()

    page.route("**/submit/", lose_first)
    page.locator("#answer").fill("Once and for all.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#task-notice")).to_contain_text("No connection. Nothing is lost")
    page.wait_for_url(lambda now: str(first.pk) not in now, timeout=15_000)
    assert len(lost) == 1
    written = Demonstration.objects.get()
    assert (written.text, written.assignment_id) == ("Once and for all.", first.pk)
    second = at_desk.arrived()
    assert second.pk != first.pk
    expect(page.locator("#messages")).to_contain_text("Submitted, thank you.")
    expect(page.locator("#answer")).to_have_value("")


def test_a_skip_needs_a_reason_and_gives_the_next_task(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    first = at_desk.take()
    page = at_desk.page
    page.get_by_role("button", name="Skip…").click()
    page.get_by_role("button", name="Skip this task").click()
    expect(page.locator("[data-complaint]")).to_be_visible()
    page.get_by_label("The prompt makes no sense").check()
    page.get_by_label("In your words").fill("two prompts in one")
    page.get_by_role("button", name="Skip this task").click()
    page.wait_for_url("**/work/")
    first.refresh_from_db()
    assert first.state == Assignment.State.SKIPPED
    assert first.skip_reason == "The prompt makes no sense: two prompts in one"
    expect(page.get_by_role("heading", name="You have done all there is")).to_be_visible()


def test_a_lease_about_to_lapse_is_announced_and_can_be_kept(
    at_desk: Desk, settings: Settings
) -> None:
    settings.LEASE_SECONDS = 6
    at_desk.task("demonstration")
    assignment = at_desk.take()
    notice = at_desk.page.locator("#task-notice")
    expect(notice).to_contain_text("goes back to the others", timeout=10_000)
    settings.LEASE_SECONDS = 600
    notice.get_by_role("button", name="Go on").click()
    expect(notice).to_be_hidden()
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.LEASED


def test_behind_another_tab_the_title_says_so_and_is_itself_again_after(
    at_desk: Desk, settings: Settings
) -> None:
    settings.LEASE_SECONDS = 6
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    title = page.title()
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    expect(page).to_have_title("Time is nearly up", timeout=10_000)
    settings.LEASE_SECONDS = 600
    page.evaluate(hide, False)
    expect(page).to_have_title(title)


def test_saving_is_shown_each_time_and_read_aloud_only_when_it_fails(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    spoken = page.locator("#saved-spoken")
    expect(spoken).to_have_role("status")
    page.locator("#answer").fill("Tea, then.")
    saved(page)
    expect(spoken).to_be_empty()
    page.context.set_offline(True)
    page.locator("#answer").fill("Tea, then rain.")
    expect(spoken).to_have_text("Offline. Kept on this device")
    page.context.set_offline(False)
    expect(spoken).to_contain_text("Saved")
    said = spoken.text_content()
    page.locator("#answer").fill("Tea, then sun.")
    saved(page)
    expect(page.locator("#saved-spoken")).to_have_text(said or "-")


def test_an_answer_after_the_place_is_taken_is_still_kept(at_desk: Desk) -> None:
    task = at_desk.task("demonstration")
    assignment = at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("I was at lunch.")
    saved(page)
    factories.lapse(assignment)
    assignments_lapse()
    other = factories.make_member(at_desk.project)
    taken = assignment_claim_next(project=at_desk.project, labeler=other)
    assert taken is not None
    assert taken.task == task
    page.reload()
    expect(page.locator("#task-notice")).to_contain_text("someone else has it now")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/work/")
    expect(page.locator("#messages")).to_contain_text("Kept beside the others")
    assert Demonstration.objects.get(labeler=at_desk.labeler).surplus


def test_one_question_mark_opens_the_keys_but_not_while_writing(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    page.locator("#answer").press_sequentially("Why?")
    expect(page.locator("#keys")).to_be_hidden()
    page.locator("#answer").blur()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Instructions").click()
    expect(page.locator("#instructions")).to_contain_text("Be helpful first.")
