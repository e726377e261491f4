"""The ways to the pages of the tour: each opens one in somebody's window, and fills it in where it would be empty."""

import secrets
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.tour.demo import PROJECT, Demo, written_answers
from tests.tour.scenes import AUTHOR, RANKER, WRITER, pairs_vote, pairs_wait

TRAINING = "a[href*='/trainings/']"
UPLOAD = (
    b'{"text": "Explain to a child why the moon changes shape.", "use_case": "open_qa", "author": "ada"}\n'
    b'{"text": "Name three rivers that flow north.", "use_case": "open_qa", "author": "ada"}\n'
    b'{"text": "Name three rivers that flow north.", "use_case": "open_qa", "author": "bo"}\n'
    b'{"text": "", "author": "bo"}\n'
)


def at(name: str, path: str) -> Callable[[Demo], Page]:
    return lambda demo: demo.at(name, path)


def task(name: str, kind: str) -> Callable[[Demo], Page]:
    def go(demo: Demo) -> Page:
        return demo.at(name, f"task/{demo.take(name, kind)['id']}/")

    return go


def writing(demo: Demo) -> Page:
    page = task(WRITER, "demonstration")(demo)
    prompt = demo.take(WRITER, "demonstration")["prompt_text"]
    said = written_answers().get(prompt, "I would *look it up* first.")
    page.locator("#answer").fill(said.partition(". ")[0].rstrip(".") + ".")
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    expect(page.locator("#undo-submit")).to_have_count(0)
    return page


def prompt(demo: Demo) -> Page:
    page = task(AUTHOR, "prompt")(demo)
    page.evaluate(
        """() => {
            const put = (field, text) => {
                if (!field || field.value) return;
                field.value = text;
                field.dispatchEvent(new Event("input", { bubbles: true }));
            };
            put(document.querySelector("#text"),
                "Write a notice for our door: we close at noon on Friday, and open again on Monday at seven.");
            put(document.querySelector("#instruction"), "Say which mood the sentence has, in one word.");
            const pairs = [["The bus left without me again.", "annoyed"], ["Look, the first snow!", "delighted"]];
            for (const [n, pair] of pairs.entries()) {
                put(document.querySelectorAll("[data-pair=query]")[n], pair[0]);
                put(document.querySelectorAll("[data-pair=response]")[n], pair[1]);
            }
            put(document.querySelector("#query"), "I could sleep for a week.");
        }"""
    )
    expect(page.locator("#saved")).to_have_attribute("data-state", "saved")
    return page


def rating(demo: Demo) -> Page:
    page = task(RANKER, "ranking")(demo)
    expect(page.locator("#saved")).not_to_be_empty()
    if page.locator("#rating-bar").is_hidden():  # as the last tour left it
        page.locator("#to-ratings").click()
    if not page.locator("[name=overall]:checked").count():
        for key in "5ff":
            page.keyboard.press(key)
    return page


def ranking(demo: Demo) -> Page:
    page = demo.person(RANKER)
    page.locator("[data-go=rank]").click()
    for key in "b1a2d2":
        page.keyboard.press(key)
    return page


def pair(demo: Demo) -> Page:
    pairs_wait(demo)
    page = task(RANKER, "pairwise")(demo)
    page.keyboard.press("b")
    return page


def pair_results(demo: Demo) -> Page:
    pairs_vote(demo)
    demo.person("admin").wait_for_timeout(12_000)  # until none of them can be taken back
    return first("admin", "rounds/", "tr:has(.chip.good) a")(demo)


def history_label(demo: Demo) -> Page:
    page = demo.at(WRITER, "history/?kind=demonstration")
    page.locator(".past-prompt").first.click()
    page.wait_for_load_state()
    return page


def first(name: str, path: str, link: str) -> Callable[[Demo], Page]:
    """The page behind the first such link of another."""

    def go(demo: Demo) -> Page:
        page = demo.at(name, path)
        page.locator(link).first.click()
        page.wait_for_load_state()
        page.wait_for_timeout(1_500)  # the charts fetch their figures
        return page

    return go


def training(demo: Demo) -> Page:
    """The newest training: that of a model, else that of the open round."""
    page = demo.at("admin", "models/")
    if not page.locator(TRAINING).count():
        page = first("admin", "rounds/", "tr:has(.chip.good) a")(demo)
    page.locator(TRAINING).first.click()
    page.wait_for_load_state()
    page.wait_for_timeout(1_500)
    return page


def invitation(demo: Demo) -> Page:
    page = demo.at("admin", "people/")
    page.locator(".invite-form [name=note]").fill("Nora")
    page.locator(".invite-form [name=role]").select_option("labeler")
    page.locator(".invite-form button.primary").click()
    return demo.at("", page.locator("#shown-once input").input_value(), window="nora")


def first_visit(demo: Demo) -> Page:
    page = demo.person("", window="nora")
    page.locator("[name=username]").fill(f"nora-{secrets.token_hex(3)}")
    page.locator("[name=full_name]").fill("Nora New")
    secret = secrets.token_urlsafe(12)
    for field in page.locator("input[type=password]").all():
        field.fill(secret)
    page.locator("main button.primary").click()
    page.wait_for_url(f"**{PROJECT}/work/")
    return page


def reset(demo: Demo) -> Page:
    page = demo.at("admin", "people/?words=nora")
    page.locator("[data-dialog^=person-]").first.click()
    dialog = page.locator("dialog[open]")
    dialog.locator("form[action$='/reset/'] button").click()
    return demo.at("", dialog.locator("#link-once").input_value(), window="reset")


def upload(demo: Demo) -> Page:
    page = demo.at("admin", "prompts/upload/")
    file = {"name": "own-prompts.jsonl", "mimeType": "application/jsonl", "buffer": UPLOAD}
    page.locator("input[type=file]").set_input_files(file)  # type: ignore[arg-type]
    page.locator("main form button.primary").click()
    page.wait_for_url("**/uploads/*/")
    return page
