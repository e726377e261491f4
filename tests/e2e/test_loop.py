"""The product's promise, as people live it: write, rank, train, promote, rank what was learned."""

import re
from pathlib import Path

import pytest
from django.conf import LazySettings
from playwright.sync_api import Browser, Page, expect

from labelapp.models import Demonstration, ModelVersion, Project, Ranking, Round, Task
from labelapp.services.prompts import PromptInput, prompts_create, split_of_author
from labelapp.services.rounds import instructions_add
from labelapp.services.runs import base_queue
from tests.e2e.stack import stack, wait_until
from tests.factories import PASSWORD, make_member, make_project
from tests.models import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.django_db(transaction=True),
]

QUESTIONS = (
    "Name a fish.",
    "Why is the sky blue?",
    "Write a list of what to buy.",
    "How many gulls sat on the wall?",
    "What is the best way to learn?",
    "Say hello to the harbour.",
)


def authors_of(split: str) -> list[str]:
    return [name for name in (f"author {i}" for i in range(99)) if split_of_author(name) == split]


def prepare(settings: LazySettings) -> Project:
    """A project with a few prompts in each split, its people, and the base model on its way."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    project = make_project("garden", min_demonstrations=2, min_rankings=2)
    texts = {"train": QUESTIONS[:4], "valid": QUESTIONS[4:5], "test": QUESTIONS[5:]}
    for split, questions in texts.items():
        author = authors_of(split)[0]
        prompts_create(
            project=project,
            prompts=[PromptInput("plain", "open_qa", author, text) for text in questions],
        )
    instructions_add(project=project, body="Be *helpful* first.")
    make_member(project, "admin", "ada")
    make_member(project, "labeler", "lena")
    base_queue(project=project)
    return project


def sign_in(page: Page, url: str, username: str) -> None:
    page.goto(f"{url}/sign-in/")
    page.get_by_label("Name", exact=False).first.fill(username)
    page.locator("input[type=password]").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(r"/p/garden/"))


def write_one(page: Page, text: str) -> None:
    page.locator("#answer").fill(text)
    page.locator("#submit").click()


def rank_one(page: Page) -> None:
    """Rate and place every answer by keyboard: a digit and Enter; then letter and digit."""
    letters = page.locator("[data-answer]").evaluate_all("all => all.map(a => a.dataset.answer)")
    assert letters == list("ABC")
    for rating in "467":
        page.keyboard.press(rating)
        page.keyboard.press("Enter")
    for place, letter in enumerate(reversed(letters), 1):
        page.keyboard.press(letter.lower())
        page.keyboard.press(str(place))
    expect(page.locator("#submit")).to_be_enabled()
    page.keyboard.press("Control+Enter")


def work_through(page: Page, url: str) -> None:
    """Take tasks until nothing is left, as the one button gives them."""
    for number in range(20):
        page.goto(f"{url}/p/garden/work/")
        button = page.locator("#next")
        if not button.count():
            return
        button.click()
        page.wait_for_url(re.compile(r"/task/"))
        task = page.url
        if page.locator("#answer").count():
            write_one(page, f"An answer in plain words, number {number}.")
        else:
            rank_one(page)
        page.wait_for_url(lambda now, task=task: now != task)
    raise AssertionError("there was no end to the work")


def open_round(page: Page, url: str, demonstrations: int, rankings: int) -> None:
    page.goto(f"{url}/p/garden/rounds/new/")
    for fold in page.locator("details.fold").all():
        if fold.get_attribute("open") is None:
            fold.locator("summary").click()
    for name, value in {
        "demonstrations_wanted": demonstrations,
        "rankings_wanted": rankings,
        "k": 3,
        "max_new_tokens": 12,
    }.items():
        page.locator(f"[name={name}]").fill(str(value))
    page.get_by_role("button", name="Open the round").click()
    page.wait_for_url(re.compile(r"/rounds/\d+/$"))


def wait_for_answers(round_: Round) -> None:
    wait_until(
        lambda: not round_.tasks.filter(state=Task.State.WAITING).exists(),
        seconds=120,
        what="drawing the answers",
    )


def test_what_labelers_teach_answers_the_next_round(
    browser: Browser,
    settings: LazySettings,
    store: Path,
    tmp_path: Path,
    process_environment: dict[str, str],
) -> None:
    project = prepare(settings)
    model = tiny_model("llama", tmp_path / "tiny")
    environment = process_environment | {
        "LABELAPP_BASE_MODEL": str(model),
        "LABELAPP_STORE": str(store),
        "THROTTLE_SUBMIT": "1000/minute",
    }
    with (
        stack(environment) as url,
        browser.new_context() as for_admin,
        browser.new_context() as for_labeler,
    ):
        admin, labeler = for_admin.new_page(), for_labeler.new_page()
        versions = ModelVersion.objects.filter(project=project, role="policy")
        base = wait_until(
            versions.filter(state="current").first, seconds=120, what="preparing the base model"
        )
        sign_in(admin, url, "ada")
        sign_in(labeler, url, "lena")

        open_round(admin, url, demonstrations=4, rankings=4)
        first = Round.objects.get()
        assert first.policy == base
        wait_for_answers(first)
        work_through(labeler, url)
        assert Demonstration.objects.filter(simulated=False).count() == 4
        assert Ranking.objects.filter(simulated=False).count() == 4
        assert {place.group for place in Ranking.objects.first().places.all()} == {0, 1, 2}

        admin.goto(f"{url}/p/garden/rounds/1/")
        admin.get_by_role("button", name="Start training").click()
        admin.wait_for_url(re.compile(r"/trainings/\d+/$"))
        admin.locator("#promote").wait_for(timeout=300_000)
        assert project.trainings.get().state == "done"
        admin.locator("#promote").click()
        expect(admin.locator("#promote")).to_have_count(0)
        new = versions.get(state="current")
        assert new != base
        assert new.run.stage == "ppo"

        admin.goto(f"{url}/p/garden/rounds/1/")
        admin.locator("[data-dialog=close-round]").click()
        admin.locator("#close-round .btn.primary").click()
        wait_until(
            lambda: not project.rounds.filter(state="open").exists(), seconds=20, what="closing"
        )
        open_round(admin, url, demonstrations=0, rankings=2)
        second = Round.objects.get(number=2)
        wait_for_answers(second)
        assert {sample.version for task in second.tasks.all() for sample in task.samples.all()} == {
            new
        }
        labeler.goto(f"{url}/p/garden/work/")
        labeler.locator("#next").click()
        labeler.wait_for_url(re.compile(r"/task/"))
        assert str(new) not in labeler.content()
        task = labeler.url
        rank_one(labeler)
        labeler.wait_for_url(lambda now: now != task)  # a page that is on its way may never close
        assert Ranking.objects.filter(task__round=second).exists()
