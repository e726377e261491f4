"""Accessibility as axe-core sees it."""

from pathlib import Path

from django.conf import settings
from playwright.sync_api import Page


def complaints(page: Page) -> list[str]:
    """What axe finds on the page as it stands, one line each; empty is good."""
    source = Path(settings.NODE_MODULES, "axe-core", "axe.min.js").read_text(encoding="utf-8")
    session = page.context.new_cdp_session(page)  # the page's own policy lets no script in
    session.send("Runtime.evaluate", {"expression": source})
    session.detach()
    found: list[str] = page.evaluate(
        """async () => (await axe.run()).violations.flatMap((rule) => rule.nodes.map(
            (node) => `${rule.id} at ${node.target.join(" ")}: ${node.failureSummary}`))"""
    )
    return found
