"""A browser that looks at each page as wide and narrow, in light and dark, and by the Tab key, and writes down faults."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from django.conf import settings
from django.test import Client
from django.urls import resolve
from playwright.sync_api import Browser, CDPSession, ConsoleMessage, Page

from labelapp.models import User
from tests.e2e.axe import SETTLED, complaints

DESKTOP, PHONE = (1440, 900), (390, 844)
BETWEEN = ((320, 256), (768, 1024), (1101, 800))
"""Nothing is scrolled sideways there either. The first is a window of 1280 by 1024 at four times its size (WCAG 1.4.10)."""
LOOKS = ((DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "dark"), (PHONE, "light"))
WHOLE = {LOOKS[0], LOOKS[2]}  # there axe asks all it knows, else what a theme can change
LEAST = {DESKTOP: 24, PHONE: 44}  # how high what one presses must be
STOPS = 150  # more Tab stops than any page has

# where Tab has led: what stands there, whether one sees that it is there, and whether something covers it
_STOP = """async () => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const ringed = (e) => {
    const s = getComputedStyle(e);
    return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2;
  };
  let seen = false;
  for (let e = at, up = 0; e && up < 3; e = e.parentElement, up += 1) seen ||= ringed(e);
  if (at.matches(".visually-hidden")) seen ||= ringed(at.nextElementSibling);
  const shown = (at.matches(".visually-hidden") && at.closest("label")) || at;
  const uncovered = () => {
    const box = shown.getBoundingClientRect();
    return [0.1, 0.5, 0.9].some((x) => [0.1, 0.5, 0.9].some((y) => {
      const hit = document.elementFromPoint(box.left + box.width * x, box.top + box.height * y);
      return Boolean(hit) && (shown.contains(hit) || hit.contains(shown));
    }));
  };
  let free = uncovered();
  for (let frame = 0; !free && frame < 3; frame += 1) {
    await new Promise((done) => requestAnimationFrame(done));
    free = uncovered();
  }
  const words = (at.getAttribute("aria-label") || at.innerText || at.id || "").trim().slice(0, 30);
  return {where: `${at.localName} "${words}"`, seen, free};
}"""
# what a pointer has to hit and is lower than it should be, but for links within a text
_SMALL = """(least) => [...document.querySelectorAll(
    ":is(button, summary, select, textarea, .btn, .menu-item, .check, input:not([type=hidden]))")]
  .filter((e) => !e.closest(".check input, [inert], dialog:not([open])") && e.checkVisibility())
  .filter((e) => !e.classList.contains("visually-hidden"))
  .filter((e) => e.getBoundingClientRect().height > 0 && e.getBoundingClientRect().height < least - 0.5)
  .map((e) => `${e.localName} "${(e.getAttribute("aria-label") || e.innerText || e.name || "").trim().slice(0, 30)}"`
    + ` is ${Math.round(e.getBoundingClientRect().height)} px high`)"""


@dataclass
class Visitor:
    """One page of a browser; ``faults`` is what it found so far, ``seen`` the names of the addresses it was at."""

    page: Page
    host: str
    _session: CDPSession
    faults: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    _where: str = "before the first page"
    _refused: bool = False

    def be(self, user: User | None) -> None:
        """Sign in as that person, or out for none."""
        self.page.context.clear_cookies()
        if user is None:
            return
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        self.page.context.add_cookies(
            [{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": self.host}]
        )

    def go(self, path: str, name: str = "", *, status: int = 200) -> None:
        """Go there and look at it."""
        self.at(name or path, refused=status != 200)
        answer = self.page.goto(f"{self.host}{path}")
        assert answer
        if answer.status != status:
            self.fault(f"answers {answer.status}, not {status}")
        self.seen.add(resolve(path.partition("?")[0]).url_name or "")
        self.look()

    def at(self, name: str, *, refused: bool = False) -> None:
        """Name what comes next; ``refused``: the browser's word about its status is no fault."""
        self._where, self._refused = name, refused

    def look(self, name: str = "", *, part: bool = False) -> None:
        """Look at the page as it stands; ``part``: at something that has opened on it."""
        self._where = name or self._where
        if not part:
            self._title_and_heading()
        for size, scheme in LOOKS:
            self._show(size, scheme)
            for complaint in complaints(self.page, colours_only=(size, scheme) not in WHOLE):
                self.fault(f"{size[0]} px, {scheme}: {complaint}")
            self._expect_narrow(size)
            if scheme == "light":
                for small in self.page.evaluate(_SMALL, LEAST[size]):
                    self.fault(f"at {size[0]} px {small}")
        for size in BETWEEN:
            self._show(size, "light")
            self._expect_narrow(size)
        for size in (PHONE, DESKTOP):
            self._show(size, "light")
            if not part:
                self._walk(f"at {size[0]} px")

    def fault(self, what: str) -> None:
        self.faults.append(f"{self._where}: {what}")

    def listen(self, message: ConsoleMessage) -> None:
        """Whatever a page tells the console is a fault."""
        expected = self._refused and "server responded with a status of" in message.text
        if not expected:
            self.fault(f"console: {message.text}")

    def _expect_narrow(self, size: tuple[int, int]) -> None:
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        if wide > size[0]:
            self.fault(f"is {wide} px wide at {size[0]}")

    def _title_and_heading(self) -> None:
        title = self.page.title()
        if not title.endswith(" · labelapp") or title.startswith("labelapp"):
            self.fault(f"has the title {title!r}")
        headings = self.page.locator("h1:visible").count()
        if headings != 1:
            self.fault(f"has {headings} headings of the first order")

    def _show(self, size: tuple[int, int], scheme: str) -> None:
        width, height = size
        phone = size == PHONE
        self._session.send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone},
        )
        self._session.send("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        self.page.evaluate(SETTLED)

    def _walk(self, where: str) -> None:
        """Tab from the top of the page to its end: no trap, and one always sees where one is."""
        self.page.evaluate("""() => {
                const top = document.documentElement;
                top.tabIndex = -1;
                top.focus();
                top.removeAttribute("tabindex");
                scrollTo(0, 0);
            }""")
        first = ""
        for stop in range(STOPS):
            self.page.keyboard.press("Tab")
            here = self.page.evaluate(_STOP)
            if here is None:
                return
            first = first or here["where"]
            if stop == 0 and "Skip to" not in first:
                self.fault(f"Tab {where} leads first to {first}")
            if not here["seen"]:
                self.fault(f"Tab {where}: nothing shows that {here['where']} has the focus")
            if not here["free"]:
                self.fault(f"Tab {where}: {here['where']} is covered")
        self.fault(f"Tab {where} never leaves the page; the last stop is {here['where']}")


@contextmanager
def visitor(browser: Browser, host: str) -> Iterator[Visitor]:
    """A visitor in a fresh window, without motion."""
    with browser.new_context(reduced_motion="reduce", locale="en-GB") as context:
        context.set_default_timeout(15_000)
        page = context.new_page()
        made = Visitor(page, host, context.new_cdp_session(page))
        page.on("console", made.listen)
        page.on("pageerror", lambda error: made.fault(f"script: {error}"))
        yield made
