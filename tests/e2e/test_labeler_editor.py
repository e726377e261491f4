"""The editor in Chromium: markdown by keyboard with undo whole, its preview, its length, the instructions beside it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Demonstration, Ranking
from tests.e2e.axe import complaints
from tests.e2e.labeling import TEXTS, Desk, desk
from tests.labelapp.test_writing import put_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


def test_markdown_by_keyboard_is_undone_step_by_step(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    editor = page.locator("#answer")
    editor.press_sequentially("tea")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Control+b")
    expect(editor).to_have_value("**tea**")
    page.keyboard.press("Control+i")
    expect(editor).to_have_value("***tea***")
    page.keyboard.press("Control+i")
    page.keyboard.press("Control+b")
    expect(editor).to_have_value("tea")
    page.keyboard.press("Control+e")
    expect(editor).to_have_value("`tea`")
    page.keyboard.press("Control+z")
    expect(editor).to_have_value("tea")
    page.keyboard.press("Control+z")
    expect(editor).to_have_value("**tea**")
    page.keyboard.press("Control+Shift+z")
    expect(editor).to_have_value("tea")

    editor.fill("")
    page.keyboard.press("Control+Shift+Digit8")
    page.keyboard.type("black")
    page.keyboard.press("Enter")
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.keyboard.type("So much for tea.")
    expect(editor).to_have_value("- black\n- green\n\nSo much for tea.")
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+Shift+Digit7")
    expect(editor).to_have_value("1. black\n2. green\n\n3. So much for tea.")
    page.keyboard.press("Control+z")
    expect(editor).to_have_value("- black\n- green\n\nSo much for tea.")


def test_the_preview_is_the_servers_and_shows_nothing_hostile(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    preview = page.locator("#preview")
    expect(preview).to_contain_text("What you write shows here")
    page.locator("#answer").fill("**warm** <script>alert(1)</script>\n\n- pot\n- tea")
    expect(preview.locator("strong")).to_have_text("warm")
    expect(preview.locator("li")).to_have_count(2)
    expect(preview).to_contain_text("<script>alert(1)</script>")
    expect(preview.locator("script")).to_have_count(0)
    assert complaints(page) == []
    page.keyboard.press("Control+.")
    expect(preview).to_be_hidden()
    page.reload()
    expect(page.locator("#answer")).to_have_value(
        "**warm** <script>alert(1)</script>\n\n- pot\n- tea"
    )
    expect(preview).to_be_hidden()  # this device remembers


def test_on_a_phone_the_preview_takes_the_place_of_the_text(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    page = at_desk.page
    page.set_viewport_size({"width": 390, "height": 844})
    at_desk.take()
    editor, preview = page.locator("#answer"), page.locator("#preview")
    editor.fill("*warm*")
    expect(preview).to_be_hidden()
    page.get_by_role("button", name="Preview").click()
    expect(editor).to_be_hidden()
    expect(preview.locator("em")).to_have_text("warm")
    expect(preview).to_be_focused()
    assert complaints(page) == []
    page.keyboard.press("Control+.")
    expect(preview).to_be_hidden()
    expect(editor).to_be_focused()


def test_the_length_is_said_in_the_models_tokens(at_desk: Desk, store: Path) -> None:
    put_tokenizer(at_desk.round)
    type(at_desk.round).objects.filter(pk=at_desk.round.pk).update(max_new_tokens=3)
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("tea and tea")
    expect(page.locator("#token-count")).to_have_text("3 of 3 tokens")
    expect(page.locator("#too-long")).to_be_hidden()
    page.locator("#answer").fill("tea and tea again")
    expect(page.locator("#token-count")).to_have_text("4 of 3 tokens")
    expect(page.locator("#too-long")).to_contain_text("You can still submit it.")
    expect(page.locator("#submit")).to_be_enabled()


def test_a_paste_that_is_cut_is_told(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    editor = page.locator("#answer")
    editor.focus()
    page.keyboard.insert_text("tea " * 15_001)
    assert len(editor.input_value()) == 60_000
    expect(page.locator("#too-long")).to_have_text(
        "No more fits in: an answer has at most 60,000 characters."
    )
    editor.press("Backspace")
    expect(page.locator("#too-long")).not_to_contain_text("No more fits in")


def test_the_instructions_stay_beside_the_text_on_this_device(at_desk: Desk) -> None:
    at_desk.task("demonstration")
    at_desk.take()
    page = at_desk.page
    beside = page.locator("#beside")
    expect(beside).to_be_hidden()
    page.locator("#answer").blur()
    page.keyboard.press("i")
    page.get_by_role("button", name="Keep them beside the text").click()
    expect(page.locator("#instructions")).to_be_hidden()
    expect(beside).to_contain_text("Be helpful first.")
    page.reload()
    expect(beside).to_contain_text("Be helpful first.")
    assert complaints(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    expect(beside).to_be_hidden()
    page.locator(".topbar").get_by_role("button", name="Instructions").click()
    expect(page.locator("#instructions")).to_contain_text("Be helpful first.")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("button", name="Close the instructions").click()
    expect(beside).to_be_hidden()
    expect(page.locator("#answer")).to_be_focused()


def test_one_writes_first_and_sees_the_answers_then(at_desk: Desk) -> None:
    type(at_desk.round).objects.filter(pk=at_desk.round.pk).update(write_first=True)
    at_desk.task("ranking")
    assignment = at_desk.take()
    page = at_desk.page
    expect(page.get_by_role("heading", name="First, your own answer")).to_be_visible()
    assert TEXTS[0] not in page.content()
    assert complaints(page) == []
    page.locator("#answer").fill("Ask grandmother.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-answer]")).to_have_count(4)
    expect(page.locator("#messages")).to_contain_text("Now see the others")
    at_desk.arrived()
    assert Demonstration.objects.get().assignment_id == assignment.pk
    for number, letter in enumerate("abcd", 1):
        page.keyboard.press(letter)
        page.keyboard.press(str(number))
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert Ranking.objects.get().assignment_id == assignment.pk


def test_offline_at_the_first_answer_it_is_sent_once_and_the_ranking_follows(
    at_desk: Desk,
) -> None:
    type(at_desk.round).objects.filter(pk=at_desk.round.pk).update(write_first=True)
    at_desk.task("ranking")
    at_desk.take()
    page = at_desk.page
    page.locator("#answer").fill("Ask grandmother.")
    page.context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#task-notice")).to_contain_text("No connection. Nothing is lost")
    page.context.set_offline(False)
    expect(page.locator("[data-answer]")).to_have_count(4)
    assert Demonstration.objects.get().text == "Ask grandmother."
