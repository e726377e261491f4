"""Live prompting in Chromium, with the real process that keeps a (tiny) policy loaded."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, LiveDraft, Prompt, Ranking, Round, Run, Sample, Task
from labelapp.policy_server import PolicyLater, policy_load, policy_state
from labelapp.services.assignments import assignment_claim_next
from labelapp.store import model_folder
from tests.browser import watched
from tests.e2e.axe import complaints
from tests.e2e.labeling import Desk, desk, sign_in
from tests.e2e.stack import ROOT, free_port, wait_until
from tests.models import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("store"),
]


@pytest.fixture
def at_desk(watched_page: Page, live_server: LiveServer, store: Path) -> Desk:
    found = desk(watched_page, live_server)
    Round.objects.update(live_prompting=True, max_new_tokens=24)
    return found


@pytest.fixture
def serving(
    at_desk: Desk, settings: Settings, store: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m labelapp.serve` with the round's policy loaded."""
    run_id = at_desk.round.policy.run_id
    tiny_model("llama", model_folder(run_id))
    settings.LABELAPP_SERVE_URL = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "labelapp.serve"],
        cwd=ROOT,
        env=os.environ
        | {
            "LABELAPP_SERVE_URL": settings.LABELAPP_SERVE_URL,
            "LABELAPP_SERVE_TOKEN": settings.LABELAPP_SERVE_TOKEN,
            "LABELAPP_STORE": str(store),
            "LABELAPP_VAR": str(tmp_path / "var"),
            "SECRET_KEY": settings.SECRET_KEY,
            "LABELAPP_TRAINING": "test",
            "OMP_NUM_THREADS": "1",
        },
    )
    try:
        wait_until(lambda: _loaded() is not None, seconds=60, what="the policy server")
        policy_load(run_id)
        wait_until(lambda: _loaded() == str(run_id), seconds=30, what="the model")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def _loaded() -> str | None:
    try:
        return str(policy_state()["model"])
    except PolicyLater:
        return None


def test_a_prompt_is_written_answered_while_one_looks_and_ranked(
    at_desk: Desk, serving: subprocess.Popen[bytes]
) -> None:
    page = at_desk.page
    page.goto(f"{at_desk.url}/p/garden/live/")
    page.get_by_label("Your prompt").fill("How many fish today?")
    page.keyboard.press("Control+Enter")
    rank = page.get_by_role("link", name="Rank them")
    expect(rank).to_be_focused()
    assert complaints(page) == []
    page.emulate_media(color_scheme="dark")
    assert complaints(page) == []
    shown = {
        letter: page.locator(f"[data-letter={letter}] .answer-text").text_content()
        for letter in "ABCD"
    }
    assert str(at_desk.round.policy.run_id) not in page.content()
    page.keyboard.press("Enter")
    assignment = at_desk.arrived()
    texts = dict(Sample.objects.values_list("pk", "text"))
    assert list(shown.values()) == [texts[pk] for pk in assignment.shown_order]
    page.keyboard.type("b1a2d2c3")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/work/")
    assert Ranking.objects.get().assignment == assignment
    prompt = Prompt.objects.get(text="How many fish today?")
    assert prompt.live.labeler == at_desk.labeler
    page.goto(f"{at_desk.url}/p/garden/live/")
    expect(page.locator(".live-item")).to_contain_text("Ranked")
    expect(page.get_by_label("Your prompt")).to_be_empty()


def test_when_nobody_answers_the_page_says_later_and_the_prompt_is_kept(at_desk: Desk) -> None:
    page = at_desk.page
    page.goto(f"{at_desk.url}/p/garden/live/")
    page.get_by_label("Your prompt").fill("Is anybody there?")
    page.reload()
    expect(page.get_by_label("Your prompt")).to_have_value("Is anybody there?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status").filter(has_text="answers come later")).to_be_visible()
    assert complaints(page) == []
    task = Task.objects.get()
    assert (task.state, task.prompt.text) == ("waiting", "Is anybody there?")
    assert Run.objects.filter(stage="sample", state="queued").count() == 1
    page.get_by_role("link", name="Write another").click()
    page.wait_for_load_state()
    expect(page.locator(".live-item")).to_contain_text("Waiting for answers")
    assert not Assignment.objects.exists()


def test_what_is_typed_is_on_the_server_within_a_second_and_back_on_another_device(
    at_desk: Desk, browser: Browser
) -> None:
    page = at_desk.page
    page.goto(f"{at_desk.url}/p/garden/live/")
    page.get_by_label("Your prompt").press_sequentially("Why is the sea ")
    page.get_by_label("What kind of task it is").select_option("open_qa")
    expect(page.locator("#saved")).to_contain_text(re.compile(r"Saved \d\d:\d\d"))
    assert complaints(page) == []
    with watched(browser) as elsewhere:
        sign_in(elsewhere, at_desk.url, "lena")
        elsewhere.goto(f"{at_desk.url}/p/garden/live/")
        expect(elsewhere.get_by_label("Your prompt")).to_have_value("Why is the sea ")
        expect(elsewhere.get_by_label("What kind of task it is")).to_have_value("open_qa")
        elsewhere.get_by_label("Your prompt").fill("Why is the sea salt?")
        expect(elsewhere.locator("#saved")).to_have_attribute("data-state", "saved")
    page.reload()
    expect(page.get_by_label("Your prompt")).to_have_value("Why is the sea salt?")
    page.context.set_offline(True)
    page.get_by_label("Your prompt").fill("Why is the sky blue?")
    expect(page.locator("#saved")).to_have_text("Offline. Kept on this device")
    page.context.set_offline(False)
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status").filter(has_text="answers come later")).to_be_visible()
    assert Prompt.objects.filter(text="Why is the sky blue?").count() == 1
    assert not LiveDraft.objects.exists()
    page.get_by_role("link", name="Write another").click()
    expect(page.get_by_label("Your prompt")).to_be_empty()


def test_a_refused_prompt_stays_a_draft(at_desk: Desk) -> None:
    page = at_desk.page
    page.goto(f"{at_desk.url}/p/garden/live/")
    at_desk.task("demonstration")
    assignment_claim_next(project=at_desk.project, labeler=at_desk.labeler)
    page.get_by_label("Your prompt").fill("May I?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#says")).to_contain_text("You have a task in work.")
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    assert LiveDraft.objects.get().text == "May I?"
    assert complaints(page) == []
