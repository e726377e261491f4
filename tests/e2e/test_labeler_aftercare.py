"""After the submit, in Chromium: taking it back by a key, correcting it later."""

import pytest
from playwright.sync_api import Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Demonstration, Ranking
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
