"""A running demo, as its people use it: signing in, handing in work, asking the API."""

import json
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "/p/demo"
T = TypeVar("T")


class TourError(RuntimeError):
    """The tour cannot go on; the message says what to do."""


def demo_check(url: str, signins: Path) -> dict[str, str]:
    """The passwords of the demo by name, if it runs there. Raises TourError."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            up = answer.status == 200
    except (OSError, ValueError):
        up = False
    if not up:
        raise TourError(
            f"No demo answers at {url}. Start one with `make demo`, leave it running, and start the tour again; "
            "another address is given with --url."
        )
    if not signins.is_file():
        raise TourError(
            f"The demo's sign-ins are not in {signins}. Name the file that `make demo` tells of with --signins."
        )
    lines = [line.split() for line in signins.read_text(encoding="utf-8").splitlines()]
    return {name: password for _role, name, password in lines}


class Demo:
    """The demo and a window for each of its people."""

    def __init__(self, browser: Browser, url: str, passwords: dict[str, str]) -> None:
        self.url = url
        self._browser = browser
        self._passwords = passwords
        self._pages: dict[str, Page] = {}

    def person(self, name: str, window: str = "") -> Page:
        """A window of that person, signed in; of a stranger for an empty name."""
        key = f"{name} {window}"
        if key not in self._pages:
            context = self._browser.new_context(
                base_url=self.url, locale="en-GB", timezone_id="UTC", reduced_motion="reduce"
            )
            context.set_default_timeout(30_000)
            self._pages[key] = page = context.new_page()
            if name:
                self._sign_in(page, name)
        return self._pages[key]

    def at(self, name: str, path: str, window: str = "") -> Page:
        """That person's window at a page of the project, or anywhere for a whole address."""
        page = self.person(name, window)
        answer = page.goto(path if path.startswith(("/", "http")) else f"{PROJECT}/{path}")
        assert answer
        if answer.status >= 500:
            raise TourError(f"{page.url} answers {answer.status}; what the demo prints says why.")
        return page

    def _sign_in(self, page: Page, name: str) -> None:
        if name not in self._passwords:
            raise TourError(f"The file of sign-ins names no {name}: is it that of this demo?")
        page.goto("/sign-in/")
        page.locator("[name=username]").fill(name)
        page.locator("[name=password]").fill(self._passwords[name])
        page.locator("main button.primary").click()
        page.wait_for_load_state()
        if "/sign-in/" in page.url:
            raise TourError(
                f"{name} cannot sign in at {self.url} with the password in the file: is it that of this demo?"
            )

    # --- the API, as the pages' scripts ask it

    def ask(self, name: str, path: str, data: dict[str, Any]) -> dict[str, Any]:
        """What the API of the project answers; empty for nothing."""
        page = self.person(name)
        cookies = {each["name"]: each["value"] for each in page.context.cookies()}  # type: ignore[typeddict-item]
        answer = page.request.post(
            f"{self.url}/api{PROJECT}/{path}",
            data=data,
            headers={"X-CSRFToken": cookies.get("csrftoken", ""), "Referer": f"{self.url}/"},
        )
        if not answer.ok:
            raise TourError(f"{path} answers {answer.status}: {answer.text()[:200]}")
        body = answer.text()
        return json.loads(body) if body else {}

    def take(self, name: str, kind: str) -> dict[str, Any]:
        """The next task of that kind for that person, as the API tells it; empty where there is none."""
        return self.ask(name, "next/", {"kind": kind})["assignment"] or {}

    def skip(self, name: str, task: dict[str, Any]) -> None:
        self.ask(name, f"assignments/{task['id']}/skip/", {"reason": "Not now"})

    def submit(self, name: str, task: dict[str, Any], **label: Any) -> None:
        said = {"client_id": str(uuid.uuid4()), "active_ms": 95_000} | label
        self.ask(name, f"assignments/{task['id']}/submit/", said)


def patiently(question: Callable[[], T], *, seconds: float, page: Page) -> T:
    """The first true answer, or the last one when the time is over."""
    for _ in range(int(seconds / 2)):
        answer = question()
        if answer:
            return answer
        page.wait_for_timeout(2_000)
    return question()


def written_answers() -> dict[str, str]:
    """The demo's own demonstrations: prompt to answer."""
    lines = (ROOT / "labelapp" / "demo" / "demonstrations.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, lines.splitlines())
    return {row["prompt"]: row["completion"] for row in rows}
