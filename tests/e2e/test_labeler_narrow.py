"""On a phone or a tablet: a long prompt is folded above the work, and is there in full for who asks."""

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import RATING_FIELDS, Prompt, Round, User
from tests import factories
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PHONE = {"width": 390, "height": 844}
LONG = "Sum this up for me. " + "It rained all day, and then some more. " * 80 + "That is all."


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


def long_ranking(at_desk: Desk, text: str = LONG) -> Page:
    """A ranking of a long prompt, with ratings first, on a phone."""
    Round.objects.filter(pk=at_desk.round.pk).update(rating_fields=list(RATING_FIELDS))
    task = at_desk.task("ranking")
    Prompt.objects.filter(pk=task.prompt_id).update(text=text)
    at_desk.page.set_viewport_size(PHONE)
    at_desk.take()
    return at_desk.page


def test_a_long_prompt_does_not_stand_between_the_labeler_and_each_answer(at_desk: Desk) -> None:
    page = long_ranking(at_desk)
    expect(page.locator("[data-answer=A]")).to_be_in_viewport()
    unfold = page.get_by_role("button", name="Read the whole prompt")
    expect(unfold).to_have_attribute("aria-expanded", "false")
    assert "That is all." in page.locator("main").aria_snapshot()  # who listens has it in full
    assert complaints(page) == []
    unfold.click()
    fold = page.get_by_role("button", name="Fold the prompt")
    expect(fold).to_be_focused()
    expect(page.locator("[data-answer=A]")).not_to_be_in_viewport()
    page.locator("#rate-next").click()
    expect(page.locator("[data-answer=B]")).to_be_in_viewport()
    expect(unfold).to_be_visible()
    for _ in "BCD":
        page.locator("#rate-next").click()
    expect(page.locator("[data-answer=A]")).to_be_in_viewport()


def test_a_short_prompt_and_a_wide_screen_have_nothing_to_unfold(at_desk: Desk) -> None:
    page = long_ranking(at_desk, "Sum this up.")
    expect(page.locator("#prompt-fold")).to_be_hidden()
    Prompt.objects.update(text=LONG)
    page.reload()
    expect(page.locator("#prompt-fold")).to_be_visible()
    page.set_viewport_size({"width": 1440, "height": 900})
    expect(page.locator("#prompt-fold")).to_be_hidden()
    page.get_by_text("That is all.").scroll_into_view_if_needed()
    expect(page.locator("[data-answer=A]")).to_be_in_viewport()


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_first_visit_is_explained_in_one_screen_of_a_phone(at_desk: Desk, language: str) -> None:
    rival = factories.make_version(at_desk.project)
    Round.objects.filter(pk=at_desk.round.pk).update(opponent=rival, pairs_wanted=1)
    at_desk.round.refresh_from_db()
    for kind in ("demonstration", "ranking", "pairwise"):
        at_desk.task(kind)
    User.objects.filter(pk=at_desk.labeler.pk).update(language=language)
    page = at_desk.page
    page.set_viewport_size(PHONE)
    page.goto(f"{at_desk.url}/p/garden/work/")
    expect(page.locator(".first-steps li")).to_have_count(5)
    expect(page.locator("#next")).to_be_in_viewport(ratio=1)
    expect(page.locator("[data-dialog=instructions]")).to_be_in_viewport(ratio=1)


def test_a_first_visit_explains_what_this_round_asks_for_and_nothing_else(at_desk: Desk) -> None:
    at_desk.task("ranking")
    page = at_desk.page
    page.goto(f"{at_desk.url}/p/garden/work/")
    expect(page.locator(".first-steps h2")).to_have_text(
        ["Rank answers", "Nothing is lost", "You may skip"]
    )
