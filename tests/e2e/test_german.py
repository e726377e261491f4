"""The pages in German in Chromium: chosen by keyboard, spoken by scripts too, and long words break no page."""

from collections.abc import Iterator

import pytest
from django.urls import reverse
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Role, Round
from tests import factories
from tests.e2e.axe import complaints
from tests.labelapp.steering_cast import make_cast
from tests.labelapp.test_language import admin_pages, english, labeler_pages

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]
WIDTHS = (320, 390, 768, 1024, 1440)
TOO_WIDE = """() => [
  ...(document.documentElement.scrollWidth > innerWidth ? ["the page"] : []),
  ...[...document.querySelectorAll(".btn, button")]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().left < 0)
    .map((e) => `outside: ${e.textContent.trim().slice(0, 60)}`),
  ...[...document.querySelectorAll(".btn, .chip, .tabs a, .segmented button, h1, h2, label, legend")]
    .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 2)
    .map((e) => `${e.tagName} ${e.className}: ${e.textContent.trim().slice(0, 60)}`),
]"""
"""What stands out of its box."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser that asks for German."""
    troubles: list[str] = []
    with browser.new_context(locale="de-DE", viewport={"width": 1440, "height": 900}) as context:
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        yield page
    assert not troubles, troubles


def sign_in(page: Page, url: str, username: str) -> None:
    page.goto(f"{url}/sign-in/")
    page.get_by_label("Benutzername").fill(username)
    page.get_by_label("Passwort").fill(factories.PASSWORD)
    page.get_by_role("button", name="Anmelden").click()
    page.wait_for_url(lambda now: "/sign-in/" not in now)


def fits(page: Page) -> None:
    """Nothing stands out, on a phone and on a desk."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate(TOO_WIDE) == [], (page.url, width)


def test_a_language_is_chosen_by_keyboard_before_and_after_sign_in(
    page: Page, live_server: LiveServer
) -> None:
    factories.make_member(factories.make_project(), username="lena")
    page.goto(f"{live_server.url}/sign-in/")
    html = page.locator("html")
    expect(html).to_have_attribute("lang", "de")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(TOO_WIDE) == []
    assert complaints(page) == []
    page.get_by_role("button", name="English").focus()
    page.keyboard.press("Enter")
    expect(html).to_have_attribute("lang", "en")
    expect(page.get_by_role("button", name="English")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Deutsch").focus()
    page.keyboard.press("Space")
    expect(html).to_have_attribute("lang", "de")
    sign_in(page, live_server.url, "lena")
    page.locator(".menu summary").last.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="English").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your work")
    page.goto(f"{live_server.url}/account/")
    page.get_by_role("button", name="As the browser asks").press("Enter")
    expect(page.get_by_role("button", name="Wie der Browser")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_answers_are_ranked_in_german(page: Page, live_server: LiveServer) -> None:
    project = factories.make_project()
    factories.make_member(project, username="lena")
    round_ = factories.make_round(project, rating_fields=["overall"])
    factories.make_task(round_, "ranking")
    sign_in(page, live_server.url, "lena")
    page.locator("#next").click()
    page.wait_for_url("**/task/**")
    fits(page)
    page.locator("[data-go=rank]").first.click()
    fits(page)  # the bar has one button more, back to the ratings
    for key in ("a", "1", "b", "2", "c", "2", "d", "3"):
        page.keyboard.press(key)
    expect(page.locator("#says")).to_contain_text(
        "A ist am besten, dann B und C gleichauf, dann D."
    )
    expect(page.locator("#saved")).to_contain_text("Gespeichert")
    expect(page.locator("#submit kbd")).to_have_text("Strg ⏎")
    fits(page)
    assert complaints(page) == []
    assert english(page.content()) == []
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/**")


@pytest.mark.parametrize("role", [Role.ADMIN, Role.LABELER])
def test_long_words_break_no_page(
    role: Role, page: Page, live_server: LiveServer, store: object
) -> None:
    cast = make_cast()
    Round.objects.update(live_prompting=True, rating_fields=["overall", "hallucination"])
    sign_in(page, live_server.url, cast.people[role].username)
    pages = admin_pages(cast) if role == Role.ADMIN else labeler_pages(cast)
    for address in pages:
        if address == reverse("round-live", args=["garden", 1]):
            continue  # a piece of a page
        page.goto(live_server.url + address)
        fits(page)
