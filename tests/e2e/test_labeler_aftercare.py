"""After the submit, in Chromium: taking it back by a key, correcting it later."""

import pytest
from playwright.sync_api import Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Demonstration, Prompt, Ranking, Round
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk
from tests.labelapp.aftercare_cast import settle

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer, settings: Settings) -> Desk:
    settings.LABEL_GRACE_SECONDS = 10
    return desk(watched_page, live_server)


def test_a_key_takes_the_submit_back_and_the_text_is_there_again(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.task("demonstration")
    first = at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("Warm the pot.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda now: "/task/" in now and str(first.pk) not in now)
    at_desk.arrived()
    expect(page.locator("#undo-submit")).to_contain_text("Submitted.")
    assert complaints(page) == []
    page.keyboard.press("Control+u")
    page.wait_for_url(f"**/task/{first.pk}/")
    at_desk.arrived()
    expect(page.locator("#answer")).to_have_value("Warm the pot.")
    assert not Demonstration.objects.exists()
    page.locator("#answer").fill("Warm the pot first.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#undo-submit")).to_be_visible()
    assert Demonstration.objects.get().text == "Warm the pot first."


def test_the_offer_goes_away_when_its_time_is_over(at_desk: Desk, settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 2
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("Once.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    expect(page.locator("#undo-submit")).to_have_count(0)
    assert Demonstration.objects.get().text == "Once."


def test_a_ranking_is_corrected_from_the_history(at_desk: Desk) -> None:
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    page.keyboard.type("a1b2c3d4")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    settle()
    page.get_by_role("link", name="History").first.click()
    page.locator(".past-prompt").click()
    assert complaints(page) == []
    page.get_by_role("button", name="Correct this").click()
    at_desk.arrived()
    assert at_desk.said() == "A is best, then B, then C, then D."
    page.keyboard.type("d1")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/history/**")
    expect(page.locator("#undo-submit")).to_contain_text("Correction submitted.")
    expect(page.locator(".version").first).to_contain_text("Version 2")
    second = Ranking.objects.get(version=2)
    assert second.corrects == Ranking.objects.get(version=1)
    assert [place.group for place in second.places.order_by("shown")] == [0, 1, 2, 0]


def test_a_pause_covers_the_page_and_stops_the_clock(at_desk: Desk) -> None:
    at_desk.task("ranking")
    assignment = at_desk.take()
    page = at_desk.page
    page.keyboard.press("p")
    expect(page.get_by_role("heading", name="Paused")).to_be_visible()
    assert complaints(page) == []
    before = page.evaluate("localStorage.getItem('labelapp:worked')")
    page.wait_for_timeout(2_500)
    assert page.evaluate("localStorage.getItem('labelapp:worked')") == before
    page.keyboard.press("Enter")
    expect(page.locator("#pause")).to_be_hidden()
    page.wait_for_function(
        "before => localStorage.getItem('labelapp:worked') !== before", arg=before
    )
    assignment.refresh_from_db()
    assert assignment.state == "leased"


def test_the_time_before_a_break_is_hinted_at_is_a_setting(
    at_desk: Desk, settings: Settings
) -> None:
    at_desk.task("ranking")
    page, hint = at_desk.page, at_desk.page.locator("#break-hint")
    worked = "JSON.stringify({ms: 7.2e6, at: Date.now()})"
    settings.BREAK_HINT_MINUTES = 0
    at_desk.take()
    page.evaluate(f"localStorage.setItem('labelapp:worked', {worked})")
    page.wait_for_timeout(1_500)
    expect(hint).to_be_hidden()
    settings.BREAK_HINT_MINUTES = 90
    page.reload()
    expect(hint).to_contain_text("You have worked for 90 minutes.")
    expect(hint).to_be_visible()


def test_after_fifty_minutes_a_break_is_hinted_at_and_not_again_at_once(at_desk: Desk) -> None:
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    hint = page.locator("#break-hint")
    expect(hint).to_be_hidden()
    page.evaluate(
        "localStorage.setItem('labelapp:worked', JSON.stringify({ms: 2999500, at: Date.now()}))"
    )
    expect(hint).to_be_visible()
    page.get_by_role("button", name="Not now").click()
    expect(hint).to_be_hidden()
    page.wait_for_timeout(1_500)
    expect(hint).to_be_hidden()


def test_a_question_and_a_flag_are_sent_without_leaving_the_task(at_desk: Desk) -> None:
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    page.keyboard.press("m")
    expect(page.get_by_role("heading", name="Ask or flag")).to_be_visible()
    page.get_by_label("Your question about this task").fill("Is this a joke?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#concern [data-notes]")).to_contain_text("Is this a joke?")
    page.get_by_label("Wrong language").check()
    page.get_by_label("Where?").select_option("B")
    page.get_by_role("button", name="Flag", exact=True).click()
    expect(page.locator("#concern [data-flags]")).to_contain_text(
        "Answer B flagged: Wrong language"
    )
    assert complaints(page) == []
    page.keyboard.press("Escape")
    page.keyboard.type("a1")
    assert at_desk.said().startswith("A is best.")


def test_a_key_of_ones_own_works_and_stands_in_the_overview(at_desk: Desk) -> None:
    at_desk.task("ranking")
    page = at_desk.page
    page.goto(f"{at_desk.url}/account/")
    page.get_by_label("Pause").press("q")
    page.get_by_label("Submit", exact=True).press("Control+s")
    assert complaints(page) == []
    page.get_by_role("button", name="Save keys").click()
    expect(page.locator("#messages")).to_contain_text("Your keys are saved.")
    at_desk.take()
    page.keyboard.press("p")
    expect(page.locator("#pause")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#keys kbd", has_text="Q").first).to_be_visible()
    expect(page.locator("#submit kbd")).to_have_text("Ctrl S")
    page.keyboard.press("Escape")
    page.keyboard.press("q")
    expect(page.locator("#pause")).to_be_visible()
    page.keyboard.press("Enter")
    page.keyboard.type("a1b2c3d4")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+s")
    page.wait_for_url("**/work/")
    assert Ranking.objects.count() == 1


def test_writing_and_rating_by_keys_of_ones_own(at_desk: Desk) -> None:
    page = at_desk.page
    page.goto(f"{at_desk.url}/account/")
    page.keyboard.press("?")  # no overview here, and no error
    page.get_by_label("Bold").press("Control+Shift+Digit9")
    page.get_by_label("Preview, and back").press("Control+m")
    page.get_by_text("Letters of the fields while rating").click()
    page.get_by_label("Hallucination").press("q")
    assert complaints(page) == []
    page.get_by_role("button", name="Save keys").click()
    at_desk.task("demonstration")
    at_desk.take()
    editor = page.locator("#answer")
    editor.fill("tea")
    editor.press("Control+a")
    page.keyboard.press("Control+b")
    expect(editor).to_have_value("tea")
    page.keyboard.press("Control+Shift+Digit9")
    expect(editor).to_have_value("**tea**")
    shown = page.locator("#preview").is_visible()
    page.keyboard.press("Control+m")
    expect(page.locator("#preview")).to_be_visible(visible=not shown)
    expect(page.locator("#keys kbd", has_text="Ctrl ⇧ 9")).to_have_count(1)
    page.locator("#submit").click()
    page.wait_for_url("**/work/")
    Round.objects.update(rating_fields=["overall", "hallucination"])
    at_desk.task("ranking")
    at_desk.take()
    page.keyboard.press("h")
    expect(page.locator("[name=hallucination][value='']")).to_be_checked()
    page.keyboard.press("q")
    expect(page.locator("[name=hallucination][value=true]")).to_be_checked()
    page.locator("#rating-bar [data-go=rank]").click()
    page.keyboard.type("c1")
    assert at_desk.said().startswith("C is best.")


def test_the_pages_beside_the_tasks_say_their_keys_too(at_desk: Desk) -> None:
    Round.objects.update(live_prompting=True)
    at_desk.task("demonstration")
    page = at_desk.page
    for address, says in (("work", "next task"), ("history", "last submit"), ("live", "Ask")):
        page.goto(f"{at_desk.url}/p/garden/{address}/")
        page.locator("body").evaluate("() => document.activeElement.blur()")
        page.keyboard.press("?")
        expect(page.locator("#keys")).to_contain_text(says)
        assert complaints(page) == []
        page.keyboard.press("Escape")
        expect(page.locator("#keys")).to_be_hidden()


def test_covered_content_is_shown_by_a_key_and_not_read_out_before(at_desk: Desk) -> None:
    task = at_desk.task("ranking")
    Prompt.objects.filter(pk=task.prompt_id).update(sensitive=["violence"])
    at_desk.take()
    page = at_desk.page
    prompt = page.get_by_text("Tell me about thing number").first
    assert page.locator("[data-veiled]").count() == 2
    assert "Tell me about thing" not in page.locator("main").aria_snapshot()
    assert complaints(page) == []
    page.keyboard.press("v")
    expect(page.locator("[data-veiled]")).to_have_count(0)
    expect(prompt).to_be_visible()
    assert "Tell me about thing" in page.locator("main").aria_snapshot()
    page.reload()
    expect(page.locator("[data-veiled]")).to_have_count(0)
