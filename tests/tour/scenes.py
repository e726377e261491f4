"""What must have happened in the demo, so that no page of the tour is empty. Each may run again on the same demo."""

from typing import Any

from playwright.sync_api import Page

from tests.tour.demo import PROJECT, Demo, TourError, patiently, written_answers

WRITER, RANKER, AUTHOR = "labeler1", "labeler2", "labeler3"
HANDED_IN = 13
"""Answers and rankings handed in, so that a training can start."""
PROMPTS = (
    "Explain to a child of six why the moon changes its shape, in a few sentences.",
    "What should I take along for a night in the mountains in autumn?",
    "Why does bread go stale faster in the fridge?",
    "How do I tell a neighbour, kindly, that the music is too loud?",
    "Name three trees that one can tell apart by their bark, and say how.",
    "What is the difference between weather and climate?",
)
"""Live prompts: each is taken once."""
ROUND = {
    "demonstrations_wanted": "18",
    "rankings_wanted": "18",
    "plain_prompts_wanted": "2",
    "few_shot_prompts_wanted": "2",
    "user_prompts_wanted": "2",
    "stated_use_cases": "I run a bakery and write the texts for our website.",
    "k": "4",
    "temperature": "1",
    "max_new_tokens": "48",
    "live_prompting": True,
    "rating_fields": True,
}
NOTHING = {name: "0" for name in ROUND if name.endswith("_wanted")}
PAIRS = NOTHING | {
    "pairs_wanted": "4",
    "overlap": "2",
    "temperature": "0.7",
    "max_new_tokens": "48",
    "opponent": True,
}
"""A round of nothing but pairs, with the last opponent that the page offers."""


def prepare(demo: Demo, say: Any) -> dict[str, dict[str, Any]]:
    """Bring the demo so far that each page has something to show; the tasks in hand, by who has them."""
    if not _round_fits(demo):
        say("opening a round that asks for ratings and for prompts")
        _round_open(demo, ROUND)
        _answers_wait(demo, say)
        say("handing in answers and rankings")
        _hand_in(demo)
    _live_prompt(demo, say)
    tasks = {
        RANKER: demo.take(RANKER, "ranking"),
        AUTHOR: demo.take(AUTHOR, "prompt"),
        WRITER: _writing_task(demo),
    }
    for name, task in tasks.items():
        if not task:
            raise TourError(
                f"There is no task left for {name}: close the round on its page, and start again."
            )
    _ask_and_flag(demo, tasks[RANKER])
    _training(demo, say)
    return tasks


def _round_fits(demo: Demo) -> bool:
    """Whether the open round has tasks of all kinds and asks for ratings; what is in hand otherwise is skipped."""
    hands = {
        WRITER: demo.take(WRITER, "demonstration"),
        RANKER: demo.take(RANKER, "ranking"),
        AUTHOR: demo.take(AUTHOR, "prompt"),
    }
    of_all_kinds = all(hands.values()) and hands[AUTHOR]["kind"] == "prompt"
    if of_all_kinds and hands[RANKER].get("rating_fields"):
        return True
    for name, task in hands.items():
        if task:
            demo.skip(name, task)
    return False


def _round_open(demo: Demo, wanted: dict[str, Any]) -> None:
    page = demo.at("admin", "rounds/")
    opened = page.locator("tr:has(.chip.good) a").first
    if opened.count():
        opened.click()
        page.wait_for_load_state()
        page.locator("[data-dialog=close-round]").click()
        page.locator("#close-round button.primary").click()
        page.wait_for_load_state()
    page = demo.at("admin", "rounds/new/")
    with page.expect_navigation():
        page.evaluate(
            """(wanted) => {
                const form = document.querySelector("form:has([name=k])");
                for (const [name, value] of Object.entries(wanted)) {
                    for (const field of form.querySelectorAll(`[name=${name}]`)) {
                        if (field.localName === "select" && value === true) field.selectedIndex = field.options.length - 1;
                        else if (value === true) field.checked = true;
                        else field.value = value;
                    }
                }
                form.requestSubmit();
            }""",
            wanted,
        )
    if page.url.endswith("/new/"):
        raise TourError("The demo did not open a round; open one by hand, and start again.")


def _answers_wait(demo: Demo, say: Any) -> None:
    """Until the model has answered the prompts that are to be ranked."""
    say("waiting for the model's answers")
    page = demo.at("admin", "rounds/")
    page.locator("tr:has(.chip.good) a").first.click()
    page.wait_for_load_state()
    done = page.locator(".sampling .icon + *, .sampling p").filter(has_text="All answers are drawn")

    def drawn() -> bool:
        page.reload()
        return done.count() > 0 or page.locator(".sampling").count() == 0

    if not patiently(drawn, seconds=400, page=page):
        raise TourError(
            "The model has not answered after some minutes; what the demo prints says why."
        )


def _hand_in(demo: Demo) -> None:
    texts = written_answers()
    for turn in range(HANDED_IN):
        name = (WRITER, RANKER, AUTHOR)[turn % 3] if turn > 5 else WRITER
        task = demo.take(name, "demonstration")
        if task:
            said = texts.get(task["prompt_text"], "I would have to look that up first.")
            demo.submit(name, task, text=said)
    for turn in range(HANDED_IN):
        name = (RANKER, WRITER, AUTHOR)[turn % 3]
        task = demo.take(name, "ranking")
        if task:
            _rank(demo, name, task, turn)


def _rank(demo: Demo, name: str, task: dict[str, Any], turn: int) -> None:
    """Hand in some order of its answers, with two of them tied."""
    letters = sorted(
        (each["letter"] for each in task["answers"]),
        key=lambda letter: (ord(letter) * 7 + turn * 5) % 11,
    )
    ratings = {letter: max(1, 6 - 2 * place) for place, letter in enumerate(letters)}
    groups = [[letters[0]], letters[1:3], *[[each] for each in letters[3:]]]
    demo.submit(name, task, groups=groups, ratings=ratings)


def _writing_task(demo: Demo) -> dict[str, Any]:
    """A demonstration in hand; the live prompt's ranking, which came to hand with its answers, goes first."""
    task = demo.take(WRITER, "demonstration")
    if task.get("kind") == "ranking":
        _rank(demo, WRITER, task, 0)
        task = demo.take(WRITER, "demonstration")
    return task


def _live_prompt(demo: Demo, say: Any) -> None:
    """A prompt that the model answers while one looks; its window stays as it is."""
    say("asking the model")
    page = demo.at(WRITER, "live/", window="live")
    if page.locator(".notice form").count():  # something is in work: the tour's own, from last time
        demo.skip(WRITER, _writing_task(demo))
        page.reload()
    asked = page.locator(".live-list").inner_text() if page.locator(".live-list").count() else ""
    page.locator("#prompt").fill(next((each for each in PROMPTS if each not in asked), PROMPTS[0]))
    page.locator("#use-case").select_option("open_qa")
    page.locator("#ask").click()
    patiently(
        lambda: page.locator("#rank").is_visible() or page.locator("#again").is_visible(),
        seconds=120,
        page=page,
    )


def _ask_and_flag(demo: Demo, task: dict[str, Any]) -> None:
    here = f"assignments/{task['id']}"
    question = "Answer B is right but ends in mid-sentence. Does that count as failing the task?"
    page: Page = demo.at("admin", "concerns/")
    if page.get_by_text(question).count():
        return
    said = {"client_id": task["id"], "text": question}
    demo.ask(RANKER, f"{here}/notes/", said)
    flag = {"client_id": task["id"], "category": "other", "words": "It repeats the prompt."}
    demo.ask(RANKER, f"{here}/flags/", flag | {"answer": "C"})


def training_stop(demo: Demo) -> None:
    """Let a training that still runs end at its next checkpoint: the machine has done enough."""
    page = demo.person("admin")
    stop = page.locator("#training-stop")
    if stop.count() and stop.is_enabled():
        stop.click()


def _training(demo: Demo, say: Any) -> None:
    """A training with figures: one that there was, else one that is started here."""
    page = demo.at("admin", "models/")
    if page.locator("a[href*='/trainings/']").count():
        return
    page = demo.at("admin", "rounds/")
    page.locator("tr:has(.chip.good) a").first.click()
    page.wait_for_load_state()
    if not page.locator("a[href*='/trainings/']").count():
        say("starting a training")
        start = page.locator(".train-form button.primary")

        def ready() -> bool:
            page.reload()
            return start.is_enabled()

        if not patiently(ready, seconds=30, page=page):  # the last labels settle first
            raise TourError(
                "A training cannot start yet; the page of the round says what it needs."
            )
        start.click()
        page.wait_for_url("**/trainings/*/")
    else:
        page.locator("a[href*='/trainings/']").first.click()
        page.wait_for_load_state()
    say("waiting for its first figures")

    def charted() -> bool:
        page.reload()
        page.wait_for_timeout(500)
        return page.locator("[data-chart] canvas").count() > 0

    patiently(charted, seconds=300, page=page)
    say("waiting for the tuned model")
    page = demo.person("admin", "models")

    def tuned() -> bool:
        page.goto(f"{PROJECT}/models/")
        return page.locator(".version-name a").count() > 1

    if not patiently(tuned, seconds=900, page=page):
        raise TourError("SFT has not ended after a quarter of an hour; its page says why.")


def pairs_wait(demo: Demo) -> None:
    """A round of pairs, whose answers are drawn: the tuned model beside the one it comes from."""
    _round_open(demo, PAIRS)
    if not patiently(lambda: _pair(demo, RANKER), seconds=400, page=demo.person(RANKER)):
        raise TourError("No pair has come after some minutes; the page of the round says why.")


def pairs_vote(demo: Demo) -> None:
    """Votes on all pairs that are left, so that the round has results."""
    votes = {
        RANKER: ("left", "right", "tie", "left"),
        AUTHOR: ("right", "right", "both_bad", "left"),
    }
    for name, choices in votes.items():
        for choice in choices:
            task = _pair(demo, name)
            if task:
                demo.submit(name, task, choice=choice)


def _pair(demo: Demo, name: str) -> dict[str, Any]:
    """A pair in hand; what is left in hand of the round before is skipped."""
    task = demo.take(name, "pairwise")
    if task and task["kind"] != "pairwise":
        demo.skip(name, task)
        task = demo.take(name, "pairwise")
    return task
