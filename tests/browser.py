"""A Chromium for the tests: found on this machine, else fetched; and how it is started.

`python -m tests.browser` makes sure that there is one and prints where it is.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class NoBrowser(RuntimeError):
    """No Chromium here, and none to be had; the message says what to do."""


def find() -> str | None:
    """The path of a Chromium on this machine: on PATH, else Playwright's own."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def obtain() -> str:
    """A Chromium's path, installing Debian's package or Playwright's own where there is none."""
    found = find()
    tried = []
    for command in _ways():
        if found:
            break
        tried.append(" ".join(command[:3]))
        print(f"No Chromium found; trying `{' '.join(command)}`.", flush=True)
        subprocess.run(command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
        found = find()
    if found:
        return found
    ways = ", ".join(dict.fromkeys(tried))
    raise NoBrowser(
        f"The tests need Chromium; none is on PATH and none could be installed ({ways}). "
        "Install it, for example with `apt-get install chromium`, and start again."
    )


def _ways() -> Iterator[list[str]]:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        yield ["apt-get", "update", "-qq"]
        yield ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    yield [sys.executable, "-m", "playwright", "install", "chromium"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running headless Chromium."""
    path = obtain()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page in a context of its own; what its scripts throw, and what the policy blocks, is raised."""
    troubles: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            troubles.append(message.text)

    def note_error(error: Error) -> None:
        troubles.append(str(error))

    def watch(page: Page) -> None:
        page.on("console", note)
        page.on("pageerror", note_error)

    wide = {"width": 1280, "height": 900}
    with browser.new_context(**{"locale": "en-GB", "viewport": wide, **options}) as context:
        context.set_default_timeout(30_000)
        context.on("page", watch)
        yield context.new_page()
    assert not troubles, troubles


if __name__ == "__main__":
    try:
        print(f"Browser for the tests: {obtain()}")
    except NoBrowser as error:
        sys.exit(str(error))
