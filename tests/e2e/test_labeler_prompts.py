"""Writing prompts in Chromium: pairs that come and go by keyboard, drafts, refusals, and who may see what."""

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.api import writing
from labelapp.models import Assignment, Prompt, Task
from tests import factories
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer) -> Desk:
    return desk(watched_page, live_server)


def prompt_task(at_desk: Desk, kind: str, brief: str = "") -> None:
    type(at_desk.round).objects.update(plain_prompts_wanted=1)
    Task.objects.create(
        project=at_desk.project,
        round=at_desk.round,
        kind=Task.Kind.PROMPT,
        asked_kind=kind,
        brief=brief,
        state=Task.State.OPEN,
        position=Task.objects.count(),
    )


def test_a_few_shot_prompt_is_written_by_keyboard_alone(at_desk: Desk) -> None:
    prompt_task(at_desk, "few_shot")
    at_desk.take()
    page = at_desk.page
    expect(page.locator("#instruction")).to_be_focused()
    page.keyboard.type("Say the mood.")
    for number, (query, response) in enumerate((("Hooray!", "glad"), ("Oh no.", "sad"))):
        page.locator("[data-pair=query]").nth(number).focus()
        page.keyboard.type(query)
        page.keyboard.press("Tab")
        page.keyboard.type(response)
    page.keyboard.press("Control+.")
    expect(page.locator("[data-pair=query]").nth(2)).to_be_focused()
    expect(page.locator("#pairs-said")).to_have_text("Examples now: 3.")
    assert complaints(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # on "Remove example 3"
    expect(page.locator(".pair")).to_have_count(2)
    expect(page.locator("#submit")).to_be_disabled()
    page.locator("#query").focus()
    page.keyboard.type("It rains again.")
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")

    page.reload()
    expect(page.locator("#query")).to_have_value("It rains again.")
    expect(page.locator("[data-pair=response]").nth(1)).to_have_value("sad")
    page.get_by_label("Kind of use").select_option("classification")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    made = Prompt.objects.get(assignment__isnull=False)
    assert made.parts["pairs"][1] == {"query": "Oh no.", "response": "sad"}
    assert made.kind == "few_shot"


def test_an_example_that_was_removed_comes_back_where_it_was(at_desk: Desk) -> None:
    prompt_task(at_desk, "few_shot")
    at_desk.take()
    page = at_desk.page
    for number, word in enumerate(("Hooray!", "Oh no.")):
        page.locator("[data-pair=query]").nth(number).fill(word)
    page.get_by_role("button", name="Add an example").click()
    back = page.get_by_role("button", name="Put back what was removed")
    page.get_by_role("button", name="Remove example 3").click()
    expect(back).to_be_hidden()  # there was nothing in it
    page.get_by_role("button", name="Remove example 1").click()
    expect(page.locator("[data-pair=query]")).to_have_count(1)
    back.click()
    expect(page.locator("[data-pair=query]").first).to_be_focused()
    values = page.locator("[data-pair=query]").evaluate_all("all => all.map(each => each.value)")
    assert values == ["Hooray!", "Oh no."]
    expect(page.locator("#pairs-said")).to_have_text("Examples now: 2.")
    expect(back).to_be_hidden()
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    kept = Assignment.objects.get().draft["pairs"]
    assert [pair["query"] for pair in kept] == ["Hooray!", "Oh no."]


def test_a_written_prompt_is_taken_back_by_a_key_and_corrected_from_the_history(
    at_desk: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LABEL_GRACE_SECONDS = 10
    monkeypatch.setattr(writing, "token_count", lambda run_id, text: len(text.split()))
    prompt_task(at_desk, "plain")
    first = at_desk.take()
    page = at_desk.page
    page.get_by_label("Kind of use").select_option("chat")
    page.get_by_label("Prompt", exact=True).fill("Say")
    expect(page.locator("#token-count")).to_have_text("1 token")
    page.get_by_label("Prompt", exact=True).fill("Say good night.")
    expect(page.locator("#token-count")).to_have_text("3 tokens")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")  # loaded, so that the key is listened for
    expect(page.locator("#undo-submit")).to_contain_text("Submitted.")
    page.keyboard.press("Control+u")
    page.wait_for_url(f"**/task/{first.pk}/")
    at_desk.arrived()
    expect(page.get_by_label("Kind of use")).to_have_value("chat")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Say good night.")
    assert not Prompt.objects.filter(assignment__isnull=False).exists()
    page.get_by_label("Prompt", exact=True).fill("Say good night to a bear.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")

    past = timezone.now() - timedelta(seconds=1)
    type(first).objects.update(undo_until=past, settles_at=past)
    Prompt.objects.update(settles_at=past)
    page.get_by_role("link", name="History").first.click()
    page.get_by_role("link", name="Prompts written").click()
    assert complaints(page) == []
    page.locator(".past-prompt").click()
    assert complaints(page) == []
    page.get_by_role("button", name="Correct this").click()
    at_desk.arrived()
    expect(page.get_by_role("button", name="Leave as it was")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("Say good morning to a bear.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/history/**")
    expect(page.locator(".version").first).to_contain_text("Say good morning to a bear.")
    assert [p.version for p in Prompt.objects.filter(assignment=first)] == [1, 2]


def test_a_prompt_that_is_there_already_is_refused_and_can_be_changed(at_desk: Desk) -> None:
    (there,) = factories.make_prompts(at_desk.project, 1)
    prompt_task(at_desk, "user", "I sell bicycles.")
    page = at_desk.page
    page.set_viewport_size({"width": 390, "height": 844})
    at_desk.take()
    expect(page.locator(".stated")).to_contain_text("I sell bicycles.")
    wide, narrow = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= narrow, "it scrolls sideways"
    page.get_by_label("Kind of use").select_option("chat")
    page.get_by_label("Prompt", exact=True).fill(there.text)
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#task-notice")).to_contain_text("there already")
    assert complaints(page) == []
    page.get_by_label("Prompt", exact=True).fill("Write a notice for a closed bicycle shop.")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/work/")
    made = Prompt.objects.get(assignment__isnull=False)
    assert made.parts == {"stated_use_case": "I sell bicycles."}
