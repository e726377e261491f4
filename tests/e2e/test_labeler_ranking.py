"""Ranking in Chromium: by keys, by buttons, by mouse and by touch; nothing is ranked by default."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Ranking
from tests.browser import watched
from tests.e2e.labeling import Desk, desk

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

LOOKS_EVERY = 150  # ms: what is dragged looks every 50 ms what it is over


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


@pytest.fixture
def with_phone(browser: Browser, live_server: LiveServer) -> Iterator[Desk]:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with watched(browser, **phone) as page:
        yield desk(page, live_server)


def keys(page: Page, typed: str) -> None:
    for key in typed.split():
        page.keyboard.press(key)


def ranked(assignment: Assignment) -> list[list[str]]:
    """The stored groups as letters of the shown order."""
    places = Ranking.objects.get(assignment=assignment).places.order_by("group", "shown")
    groups: dict[int, list[str]] = {}
    for place in places:
        groups.setdefault(place.group, []).append("ABCD"[place.shown])
    return [groups[number] for number in sorted(groups)]


def middle(zone: Locator) -> tuple[float, float]:
    box = zone.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_nothing_is_ranked_at_the_start_and_submit_waits_for_every_answer(at_desk: Desk) -> None:
    at_desk.task("ranking")
    assignment = at_desk.take()
    page = at_desk.page
    assert at_desk.said() == "Nothing is placed yet."
    expect(page.locator(".answer.placed")).to_have_count(0)
    expect(page.locator("#submit")).to_be_disabled()
    page.keyboard.press("Control+Enter")
    keys(page, "b 1 a 2 d 2")
    assert at_desk.said() == "B is best, then A and D equally. C is not placed yet."
    expect(page.locator("#submit")).to_be_disabled()
    keys(page, "c 3")
    assert at_desk.said() == "B is best, then A and D equally, then C."
    expect(page.locator("[data-answer=D] [data-place-note]")).to_have_text("2nd, with A")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert ranked(assignment) == [["B"], ["A", "D"], ["C"]]


def test_places_typed_out_of_order_stay_where_they_were_put(at_desk: Desk) -> None:
    at_desk.task("ranking")
    assignment = at_desk.take()
    keys(at_desk.page, "b 1 a 4 c 2 d 4")
    assert at_desk.said() == "B is best, then C, then A and D equally."
    at_desk.page.keyboard.press("Control+Enter")
    at_desk.page.wait_for_url("**/work/")
    assert ranked(assignment) == [["B"], ["C"], ["A", "D"]]


def test_backspace_destroys_nothing_and_undo_takes_back_step_by_step(at_desk: Desk) -> None:
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    keys(page, "a 1 b 2 Backspace Delete")
    assert at_desk.said() == "A is best, then B. C and D are not placed yet."
    assert "/task/" in page.url
    page.keyboard.press("Control+z")
    assert at_desk.said() == "A is best. B, C, and D are not placed yet."
    page.get_by_role("button", name="Undo").click()
    assert at_desk.said() == "Nothing is placed yet."
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_a_ranking_half_done_is_there_again_after_a_reload(at_desk: Desk) -> None:
    at_desk.task("ranking")
    assignment = at_desk.take()
    keys(at_desk.page, "c 1 a 3")
    expect(at_desk.page.locator("#saved")).to_have_attribute("data-state", "saved")
    assignment.refresh_from_db()
    assert assignment.draft["groups"] == [["C"], [], ["A"], []]
    at_desk.page.reload()
    expect(at_desk.page.locator("#says")).to_have_text(
        "C is best, then A. B and D are not placed yet."
    )


def test_the_buttons_of_each_answer_do_what_the_keys_do(at_desk: Desk) -> None:
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    for letter in "ABCD":
        page.get_by_role("button", name=f"Move {letter} worse").click()
    assert at_desk.said() == "A is best, then B, then C, then D."
    page.get_by_role("button", name="Move C better").click()
    assert at_desk.said() == "A is best, then C, then B, then D."
    page.get_by_role("button", name="Tie D with the one above").click()
    assert at_desk.said() == "A is best, then C, then B and D equally."
    page.get_by_role("button", name="Take A out of the ranking").click()
    assert at_desk.said() == "C is best, then B and D equally. A is not placed yet."
    page.get_by_role("button", name="Move B better").click()
    assert at_desk.said() == "C is best, then B, then D. A is not placed yet."


def test_the_focused_chip_moves_with_the_arrow_keys_and_keeps_the_focus(at_desk: Desk) -> None:
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    keys(page, "a 1 b 2 c 3 d 4")
    chip = page.locator(".rank-chip[data-letter=D]")
    chip.focus()
    keys(page, "ArrowLeft ArrowLeft")
    assert at_desk.said() == "A is best, then D, then B, then C."
    expect(chip).to_be_focused()
    expect(chip).to_have_attribute("aria-label", "Answer D, 2nd. Left and right arrow move it.")


def test_chips_are_dragged_by_mouse_into_places_and_between_them(at_desk: Desk) -> None:
    at_desk.task("ranking")
    assignment = at_desk.take()
    page = at_desk.page

    def drag(letter: str, zone: str) -> None:
        page.mouse.move(*middle(page.locator(f".rank-chip[data-letter={letter}]")))
        page.mouse.down()
        x, y = middle(page.locator(zone))
        page.mouse.move(x - 6, y - 6, steps=6)
        page.mouse.move(x, y, steps=4)
        page.wait_for_timeout(LOOKS_EVERY)
        page.mouse.up()

    drag("A", "[data-slot='0']")
    assert at_desk.said() == "A is best. B, C, and D are not placed yet."
    drag("B", "[data-slot='1']")
    drag("C", "[data-slot='1']")
    assert at_desk.said() == "A is best, then B and C equally. D is not placed yet."
    drag("D", "[data-gap='1']")
    assert at_desk.said() == "A is best, then D, then B and C equally."
    drag("A", "[data-slot='2']")
    assert at_desk.said() == "D is best, then A, B, and C equally."
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/work/")
    assert ranked(assignment) == [["D"], ["A", "B", "C"]]


def test_a_phone_ranks_by_tapping(with_phone: Desk) -> None:
    with_phone.task("ranking")
    with_phone.page.goto(f"{with_phone.url}/p/garden/work/")
    with_phone.page.locator("#next").tap()
    assignment = with_phone.arrived()
    page = with_phone.page
    for letter, place in {"A": 2, "B": 1, "C": 2, "D": 3}.items():
        button = page.locator(f"[data-answer={letter}] [data-put='{place}']")
        box = button.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 44
        button.tap()
    assert with_phone.said() == "B is best, then A and C equally, then D."
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#submit").tap()
    page.wait_for_url("**/work/")
    assert ranked(assignment) == [["B"], ["A", "C"], ["D"]]


def test_a_phone_ranks_by_dragging_a_chip_with_a_finger(with_phone: Desk) -> None:
    with_phone.task("ranking")
    with_phone.take()
    page = with_phone.page
    finger = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        finger.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]},
        )

    start = middle(page.locator(".rank-chip[data-letter=C]"))
    end = middle(page.locator("[data-slot='0']"))
    touch("touchStart", start)
    for step in range(1, 11):
        share = step / 10
        touch(
            "touchMove",
            (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share),
        )
        page.wait_for_timeout(20)
    page.wait_for_timeout(LOOKS_EVERY)
    touch("touchEnd")
    expect(page.locator("#says")).to_have_text("C is best. A, B, and D are not placed yet.")


def test_who_wrote_an_answer_is_never_in_the_page(at_desk: Desk) -> None:
    task = at_desk.task("ranking")
    assignment = at_desk.take()
    html = at_desk.page.content()
    version = at_desk.round.policy
    assert version.sha256 not in html
    assert str(version.run_id) not in html
    assert str(version) not in html
    for sample in task.samples.all():
        assert f'"{sample.pk}"' not in html
        assert f">{sample.pk}<" not in html
    assert str(assignment.pk) in html  # the page is the right one
