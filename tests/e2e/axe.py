"""Accessibility as axe-core sees it."""

from pathlib import Path

from django.conf import settings
from playwright.sync_api import Page

COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules whose answer hangs on the theme."""


SETTLED = """async () => {
    await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    const ending = document.getAnimations().filter(
        (each) => each.effect.getComputedTiming().endTime !== Infinity);
    await Promise.allSettled(ending.map((each) => each.finished));
}"""
"""What has begun to move or to change colour has come to its end."""


def complaints(page: Page, *, colours_only: bool = False) -> list[str]:
    """What axe finds on the page as it stands, one line each; empty is good."""
    if not page.evaluate("'axe' in window"):
        source = Path(settings.NODE_MODULES, "axe-core", "axe.min.js").read_text(encoding="utf-8")
        session = page.context.new_cdp_session(page)  # the page's own policy lets no script in
        session.send("Runtime.evaluate", {"expression": source})
        session.detach()
    page.evaluate(SETTLED)
    found: list[str] = page.evaluate(
        """async (only) => (await axe.run({
                preload: false,
                resultTypes: ["violations"],
                ...(only ? {runOnly: only} : {}),
            })).violations.flatMap((rule) => rule.nodes.map(
            (node) => `${rule.id} at ${node.target.join(" ")}: ${node.failureSummary}`))""",
        COLOURS if colours_only else None,
    )
    return found
