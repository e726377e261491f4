"""Comparing two answers in Chromium: by mouse, by keys and by touch; taken back, shown afterwards, locked."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Round, Vote
from tests import factories
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk
from tests.labelapp.aftercare_cast import settle

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def with_opponent(at: Desk, *, reveal: bool = False) -> Desk:
    """The desk's round compares its policy with an older version; two pairs wait."""
    opponent = factories.make_version(at.project, state="retired")
    Round.objects.filter(pk=at.round.pk).update(opponent=opponent, pairs_wanted=2, reveal=reveal)
    at.round.refresh_from_db()
    for _ in range(2):
        at.task("pairwise")
    return at


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer, settings: Settings) -> Desk:
    settings.LABEL_GRACE_SECONDS = 10
    return with_opponent(desk(watched_page, live_server))


@pytest.fixture
def with_phone(browser: Browser, live_server: LiveServer) -> Iterator[Desk]:
    with browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, locale="en-GB"
    ) as context:
        context.set_default_timeout(30_000)
        yield with_opponent(desk(context.new_page(), live_server))


def next_task(at: Desk, assignment: Assignment) -> Assignment:
    """Where the page went after handing in."""
    at.page.wait_for_url(lambda now: "/task/" in now and str(assignment.pk) not in now)
    return at.arrived()


def test_a_pair_is_voted_on_by_keys_and_by_mouse(at_desk: Desk) -> None:
    first = at_desk.take()
    page = at_desk.page
    assert at_desk.said() == "Nothing is chosen yet."
    expect(page.locator("#vote input:checked")).to_have_count(0)
    page.keyboard.press("Control+Enter")
    assert at_desk.said() == "Choose one of the four before you submit."
    for key, said in {
        "x": "Both are bad.",
        "t": "They are equally good.",
        "a": "A is better.",
        "b": "B is better.",
    }.items():
        page.keyboard.press(key)
        assert at_desk.said() == said
    page.keyboard.press("Backspace")
    assert at_desk.said() == "B is better."
    page.keyboard.press("w")
    expect(page.locator("#difference-words ins").first).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    second = next_task(at_desk, first)
    assert Vote.objects.get(assignment=first).choice == "right"
    page.locator(".vote", has_text="A is better").click()
    assert at_desk.said() == "A is better."
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/work/")
    vote = Vote.objects.get(assignment=second)
    assert vote.choice == "left"
    assert vote.left_id == second.shown_order[0]
    settle()
    page.reload()
    expect(page.locator(".stat", has_text="pairs compared")).to_contain_text("2")


def test_a_vote_is_taken_back_by_a_key_and_a_draft_is_there_after_a_reload(at_desk: Desk) -> None:
    first = at_desk.take()
    page = at_desk.page
    page.keyboard.press("t")
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    page.reload()
    expect(page.locator("#says")).to_have_text("They are equally good.")
    page.keyboard.press("Control+Enter")
    next_task(at_desk, first)
    page.keyboard.press("Control+u")
    page.wait_for_url(f"**/task/{first.pk}/")
    at_desk.arrived()
    assert at_desk.said() == "They are equally good."
    assert not Vote.objects.exists()
    page.keyboard.press("a")
    page.keyboard.press("Control+Enter")
    next_task(at_desk, first)
    assert Vote.objects.get().choice == "left"


def test_axe_finds_nothing_in_light_or_dark_and_the_page_reads_aloud(at_desk: Desk) -> None:
    at_desk.take()
    page = at_desk.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert complaints(page) == []
        page.keyboard.press("b")
        assert complaints(page) == []
    heard = page.locator("main").aria_snapshot()
    assert 'group "Which answer is better?"' in heard
    for said in ("A is better", "Equally good", "Both are bad"):
        assert f'radio "{said}' in heard
    assert 'radio "B is better B" [checked]' in heard or 'radio "B is better" [checked]' in heard
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("Both are bad")
    assert complaints(page) == []


def test_who_wrote_which_is_said_when_the_vote_can_no_longer_be_taken_back(
    at_desk: Desk, settings: Settings
) -> None:
    settings.LABEL_GRACE_SECONDS = 2
    Round.objects.update(reveal=True)
    first = at_desk.take()
    page = at_desk.page
    names = [str(at_desk.round.policy), str(at_desk.round.opponent)]
    assert not any(name in page.content() for name in names)
    page.keyboard.press("a")
    page.keyboard.press("Control+Enter")
    next_task(at_desk, first)
    vote = Vote.objects.select_related("left__version", "right__version").get()
    said = f"Of the last pair, {vote.left.version} wrote A and {vote.right.version} wrote B."
    expect(page.locator("#undo-submit [role=status]")).to_have_text(said)
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    page.keyboard.press("Control+u")
    assert complaints(page) == []
    page.get_by_role("button", name="Close", exact=True).first.click()
    expect(page.locator("#undo-submit")).to_have_count(0)
    settle()
    page.goto(f"{at_desk.url}/p/garden/history/{first.pk}/")
    expect(page.locator("#revealed")).to_contain_text("The vote is locked.")
    expect(page.get_by_role("button", name="Correct this")).to_have_count(0)
    assert complaints(page) == []
    assert Vote.objects.count() == 1


def test_a_phone_votes_by_tapping_large_buttons(with_phone: Desk) -> None:
    page = with_phone.page
    page.goto(f"{with_phone.url}/p/garden/work/")
    page.locator("#next").tap()
    first = with_phone.arrived()
    for button in page.locator(".vote").all():
        box = button.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 44
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    one, two = (page.locator(f"[data-answer={letter}]").bounding_box() for letter in "AB")
    assert one and two
    assert two["y"] >= one["y"] + one["height"]
    page.locator(".vote", has_text="Both are bad").tap()
    page.locator("#submit").tap()
    next_task(with_phone, first)
    assert Vote.objects.get().choice == "both_bad"
