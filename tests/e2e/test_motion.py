"""Whoever wants no motion gets none."""

import pytest
from playwright.sync_api import Browser
from pytest_django.live_server_helper import LiveServer

from tests.e2e.visitor import visitor

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_without_motion_a_change_of_theme_is_at_once(
    browser: Browser, live_server: LiveServer
) -> None:
    with visitor(browser, live_server.url) as who:
        who.page.goto(f"{live_server.url}/sign-in/")
        moving = """() => {
            const scheme = matchMedia("(prefers-color-scheme: dark)");
            window.moving = new Promise((known) => scheme.addEventListener("change", () =>
                requestAnimationFrame(() => known(document.getAnimations().length))));
        }"""
        who.page.evaluate(moving)
        who.page.emulate_media(color_scheme="dark")
        assert who.page.evaluate("window.moving") == 0
