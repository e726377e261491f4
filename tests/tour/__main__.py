"""`make tour`: pictures of every page of a running demo, wide and narrow, light and dark, and docs/tour.md around them.

It works in the demo as its people would (opens a round, hands in answers, starts a training), so give it a demo that may
be forgotten afterwards (`make demo-reset`).
"""

import argparse
import base64
import os
import sys
import time
from pathlib import Path
from textwrap import fill

import django
from playwright.sync_api import Error, Page

from tests.browser import chromium
from tests.pages import route
from tests.tour.demo import ROOT, Demo, TourError, demo_check
from tests.tour.scenes import prepare, training_stop
from tests.tour.stops import STOPS, Stop

QUALITY = 40
LIMIT = 4_000_000
"""Bytes of all pictures together."""
SIZES = {"desktop": (1440, 800, 1250, 1), "phone": (390, 760, 1200, 1.25)}
"""Width, lowest and greatest height, and pixels of the screen per CSS pixel."""
HEAD = """# A tour

labelapp page by page, in the order in which a newcomer meets them, on the demo project. `make tour` takes these pictures
from a running `make demo`; pages look like this on a desk (1440 px) and on a phone (390 px), here in your own theme.

The start page leads each person on to their own first page; who is in several projects chooses there (`/`).
"""


def main() -> int:
    """Take the tour; the exit status."""
    var = Path(os.environ.get("LABELAPP_VAR") or ROOT / "var")
    port = os.environ.get("LABELAPP_PORT") or "8000"
    parser = argparse.ArgumentParser(prog="make tour", description=__doc__)
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}", help="where the demo answers")
    parser.add_argument("--signins", type=Path, default=var / "demo-signins.txt")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where tour.md goes")
    options = parser.parse_args()
    begun = time.monotonic()
    django.setup()  # the list of addresses
    try:
        passwords = demo_check(options.url, options.signins)
        with chromium() as browser:
            demo = Demo(browser, options.url, passwords)
            prepare(demo, _say)
            pictures = options.docs / "tour"
            pictures.mkdir(parents=True, exist_ok=True)
            for stop in sorted(STOPS, key=lambda each: each.late):
                _say(stop.heading)
                shoot(stop.go(demo), pictures, stop.file)
                if stop.page == "training":
                    training_stop(demo)
    except (TourError, Error) as error:
        print(f"tour: {error}", file=sys.stderr)
        return 1
    kept = {f"{name}.webp" for stop in STOPS for name in names(stop)}
    for old in pictures.glob("*.webp"):
        if old.name not in kept:
            old.unlink()
    size = sum(each.stat().st_size for each in pictures.glob("*.webp"))
    (options.docs / "tour.md").write_text(page(), encoding="utf-8")
    _say(f"{len(kept)} pictures, {size / 1e6:.1f} MB, {time.monotonic() - begun:.0f} s")
    if size > LIMIT:
        print(f"tour: that is more than {LIMIT / 1e6:g} MB; lower QUALITY.", file=sys.stderr)
    return int(size > LIMIT)


def shoot(page: Page, folder: Path, file: str) -> None:
    """The page as it stands, at both widths and in both themes; very long ones are cut."""
    session = page.context.new_cdp_session(page)
    for device, (width, lowest, greatest, scale) in SIZES.items():
        session.send("Emulation.setTouchEmulationEnabled", {"enabled": device == "phone"})
        metrics = {"width": width, "deviceScaleFactor": scale, "mobile": device == "phone"}
        session.send("Emulation.setDeviceMetricsOverride", {**metrics, "height": lowest})
        whole = int(page.evaluate("document.documentElement.scrollHeight"))
        height = min(max(whole, lowest), greatest)
        session.send("Emulation.setDeviceMetricsOverride", {**metrics, "height": height})
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
            page.evaluate("async () => { scrollTo(0, 0); await document.fonts.ready; }")
            page.wait_for_timeout(250)  # charts draw anew
            shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
            path = folder / f"{file}-{device}-{theme}.webp"
            path.write_bytes(base64.b64decode(shot["data"]))
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    session.send("Emulation.clearDeviceMetricsOverride")
    session.detach()


def names(stop: Stop) -> list[str]:
    """The names of its four pictures."""
    return [f"{stop.file}-{device}-{theme}" for device in SIZES for theme in ("light", "dark")]


def page() -> str:
    """docs/tour.md."""
    parts = [HEAD]
    for stop in STOPS:
        if stop.part:
            parts.append(f"## {stop.part}\n")
        parts.append(f"### {stop.heading}\n\n`{route(stop.page)}`\n\n{fill(stop.words, 120)}\n")
        parts.append(f"<p>{_picture(stop, 'desktop', 76)}\n{_picture(stop, 'phone', 20)}</p>\n")
    return "\n".join(parts)


def _picture(stop: Stop, device: str, share: int) -> str:
    file = f"tour/{stop.file}-{device}"
    alt = stop.alt if device == "desktop" else f"The same on a phone: {stop.heading.lower()}."
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{file}-dark.webp">'
        f'<img src="{file}-light.webp" width="{share}%" align="top" alt="{alt}"></picture>'
    )


def _say(line: str) -> None:
    print(f"tour: {line}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labelapp.settings")
    sys.exit(main())
