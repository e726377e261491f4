"""Rating in Chromium, then ranking: one answer at a time, by keys, by mouse and by touch."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import RATING_FIELDS, Ranking, RankingPlace
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk
from tests.e2e.test_labeler_ranking import keys, ranked

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def asking(at: Desk, **fields: object) -> Desk:
    """The round asks for every rating field; a ranking task waits."""
    for name, value in ({"rating_fields": list(RATING_FIELDS)} | fields).items():
        setattr(at.round, name, value)
    at.round.save()
    at.task("ranking")
    return at


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return asking(desk(watched_page, live_server))


@pytest.fixture
def with_phone(browser: Browser, live_server: LiveServer) -> Iterator[Desk]:
    with browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, locale="en-GB"
    ) as context:
        context.set_default_timeout(30_000)
        yield asking(desk(context.new_page(), live_server))


def said_of(letter: str) -> tuple[int | None, dict[str, bool | None]]:
    """Stored: the overall rating, and the flags that are not blank."""
    place = RankingPlace.objects.select_related("rating").get(shown="ABCD".index(letter))
    flags = place.rating.flags
    assert set(flags) == set(RATING_FIELDS[1:])
    return place.rating.overall, {name: value for name, value in flags.items() if value is not None}


def test_answers_are_rated_one_by_one_with_keys_and_then_ranked(at_desk: Desk) -> None:
    assignment = at_desk.take()
    page = at_desk.page
    expect(page.locator(".answer:visible")).to_have_count(1)
    expect(page.locator("#ranking-bar")).to_be_hidden()
    keys(page, "5 h o o Enter")
    expect(page.locator("[data-answer=B]")).to_be_visible()
    expect(page.locator("[data-answer=A]")).to_be_hidden()
    keys(page, "2 f f f Enter 7 Enter 1")
    expect(page.locator("#rating-says")).to_have_text("Overall quality 1 of 7.")
    expect(page.locator(".dot.done")).to_have_count(4)
    keys(page, "Enter")
    expect(page.locator(".answer:visible")).to_have_count(4)
    keys(page, "c 1 a 2 b 3 d 4")
    expect(page.locator("#disagrees")).to_be_hidden()
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert ranked(assignment) == [["C"], ["A"], ["B"], ["D"]]
    assert said_of("A") == (5, {"hallucination": True, "opinion": False})
    assert said_of("B") == (2, {})
    assert said_of("D") == (1, {})


def test_a_slip_while_rating_is_undone_step_by_step_also_on_the_answer_before(
    at_desk: Desk,
) -> None:
    at_desk.take()
    page = at_desk.page
    keys(page, "5 h Enter 2")
    page.keyboard.press("Control+z")
    expect(page.locator("#rating-says")).to_have_text("Undone.")
    expect(page.locator("[name=overall]:checked")).to_have_count(0)
    expect(page.locator("[data-answer=B]")).to_be_visible()
    page.keyboard.press("Control+z")
    expect(page.locator("[data-answer=A]")).to_be_visible()
    expect(page.locator("[name=hallucination][value='']")).to_be_checked()
    expect(page.locator("[name=overall][value='5']")).to_be_checked()
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    expect(page.locator("[name=overall]:checked")).to_have_count(0)
    expect(page.locator(".dot.done")).to_have_count(0)


def test_a_rating_half_done_is_there_again_after_a_reload(at_desk: Desk) -> None:
    assignment = at_desk.take()
    page = at_desk.page
    keys(page, "6 t Enter 3")
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    assignment.refresh_from_db()
    assert assignment.draft["ratings"] == {"A": 6, "B": 3}
    page.reload()
    expect(page.locator("#rating-title")).to_have_text("How good is answer B?")
    expect(page.get_by_role("radio", name="3")).to_be_checked()
    page.get_by_role("button", name="Answer A, rated").click()
    violent = page.get_by_role("radiogroup", name="Violent content")
    expect(violent.get_by_role("radio", name="Yes")).to_be_checked()
    expect(
        page.get_by_role("radiogroup", name="Sexual content").get_by_role("radio", name="Blank")
    ).to_be_checked()


def test_a_ranking_against_the_ratings_gets_a_note_and_is_taken(at_desk: Desk) -> None:
    at_desk.take()
    page = at_desk.page
    keys(page, "2 Enter 6 Enter Enter Enter")
    keys(page, "a 1 b 2 c 3 d 4")
    expect(page.locator("#disagrees")).to_contain_text(
        "You rated B (6) above A (2) but rank A over B"
    )
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/work/")
    assert Ranking.objects.count() == 1


def test_demanded_ratings_lead_back_to_the_answer_that_lacks_one(at_desk: Desk) -> None:
    at_desk.round.ratings_required = True
    at_desk.round.save()
    at_desk.take()
    page = at_desk.page
    keys(page, "4 Enter Enter 4 Enter 4 Enter")
    keys(page, "a 1 b 2 c 3 d 4")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#rating-title")).to_have_text("How good is answer B?")
    expect(page.locator("#rating-says")).to_contain_text("B has none yet")
    keys(page, "4")
    page.get_by_role("button", name="Ranking").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert said_of("B") == (4, {})


def test_a_field_says_what_it_means_when_pointed_at_or_focused(at_desk: Desk) -> None:
    at_desk.take()
    page = at_desk.page
    meaning = page.locator("#meaning")
    expect(meaning).to_contain_text("Leave blank")
    page.locator("[data-flag=hallucination]").hover()
    expect(meaning).to_contain_text("made up")
    page.locator("[data-flag=opinion] input").first.focus()
    expect(meaning).to_contain_text("takes a side")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_while_rating(at_desk: Desk, scheme: str) -> None:
    at_desk.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    at_desk.take()
    keys(at_desk.page, "5 h")
    assert complaints(at_desk.page) == []
    at_desk.page.get_by_role("button", name="Ranking").click()
    keys(at_desk.page, "a 1 b 2 n x")
    assert complaints(at_desk.page) == []


def test_a_phone_rates_by_tapping(with_phone: Desk) -> None:
    with_phone.take()
    page = with_phone.page
    for rating in (6, 2, 4, 1):
        step = page.locator(".scale-step").nth(rating - 1)
        box = step.locator("span").bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 44
        step.tap()
        page.locator("#rate-next").tap()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for letter, place in {"A": 1, "C": 2, "B": 3, "D": 4}.items():
        page.locator(f"[data-answer={letter}] [data-put='{place}']").tap()
    page.locator("#submit").tap()
    page.wait_for_url("**/work/")
    assert said_of("A") == (6, {})


# --- what a ranking says beside the order


def test_answers_can_be_left_not_judged_and_be_all_bad(
    watched_page: Page, live_server: LiveServer
) -> None:
    at = asking(desk(watched_page, live_server), rating_fields=[], strength_asked=True)
    assignment = at.take()
    page = at.page
    keys(page, "b 1 a 2 c n")
    assert at.said() == "B is best, then A. D is not placed yet. C is not judged."
    expect(page.locator("#submit")).to_be_disabled()
    page.get_by_role("button", name="Leave the rest not judged").click()
    assert at.said() == "B is best, then A. C and D are not judged."
    page.keyboard.press("Control+z")
    assert at.said() == "B is best, then A. D is not placed yet. C is not judged."
    keys(page, "r x")
    assert at.said() == "B is best, then A. C and D are not judged. All of them are bad."
    page.locator(".strength").get_by_text("Clearly").click()
    page.locator("#answers").focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    ranking = Ranking.objects.get(assignment=assignment)
    groups = dict(ranking.places.values_list("shown", "group"))
    assert groups == {0: 1, 1: 0, 2: None, 3: None}
    assert (ranking.all_bad, ranking.strength) == (True, 3)


def test_all_bad_with_nothing_placed_is_a_tie_that_undo_takes_back(
    watched_page: Page, live_server: LiveServer
) -> None:
    at = asking(desk(watched_page, live_server), rating_fields=[])
    at.take()
    page = at.page
    keys(page, "x")
    assert at.said() == "A, B, C, and D are best equally. All of them are bad."
    page.keyboard.press("Control+z")
    assert at.said() == "Nothing is placed yet."


def test_two_answers_are_compared_word_by_word_from_the_keyboard(at_desk: Desk) -> None:
    at_desk.round.rating_fields = []
    at_desk.round.save()
    at_desk.take()
    page = at_desk.page
    keys(page, "b w")
    dialog = page.get_by_role("dialog", name="Compare the words")
    expect(dialog.locator("ins").first).to_be_visible()
    expect(dialog.get_by_role("combobox", name="From")).to_have_value("B")
    expect(dialog.get_by_role("combobox", name="to", exact=True)).to_have_value("C")
    assert complaints(page) == []
    dialog.get_by_role("combobox", name="to", exact=True).select_option("B")
    expect(dialog).to_contain_text("Choose two different answers.")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert at_desk.said() == "Nothing is placed yet."
