"""The cast and the moves of the labelers' browser tests: real pages, a real server, a real database."""

import re
from dataclasses import dataclass

from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Assignment, Project, Round, Sample, Task, User
from tests import factories

TEXTS = (
    "Put the kettle on, warm the pot, and wait four minutes.",
    "Boil water. Add tea.\n\n- black: **four** minutes\n- green: *two* minutes",
    "Tea is a drink.",
    "I cannot help with that.",
)


@dataclass(frozen=True)
class Desk:
    """A project with an open round of K = 4, and a labeler who is signed in on ``page``."""

    page: Page
    url: str
    project: Project
    round: Round
    labeler: User

    def task(self, kind: str, **fields: object) -> Task:
        task = factories.make_task(self.round, kind, **fields)
        for sample, text in zip(task.samples.order_by("index"), TEXTS, strict=False):
            Sample.objects.filter(pk=sample.pk).update(text=text)
        return task

    def take(self) -> Assignment:
        """Press the one button and wait for the task's page."""
        self.page.goto(f"{self.url}/p/garden/work/")
        self.page.locator("#next").click()
        return self.arrived()

    def arrived(self) -> Assignment:
        self.page.wait_for_url(re.compile(r"/task/"))
        expect(self.page.locator("#saved")).not_to_be_empty()
        found = re.search(r"/task/([0-9a-f-]+)/", self.page.url)
        assert found
        return Assignment.objects.get(pk=found.group(1))

    def said(self) -> str:
        """The ranking as the strip says it."""
        return self.page.locator("#says").inner_text()


def sign_in(page: Page, url: str, username: str) -> None:
    page.goto(f"{url}/sign-in/")
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(factories.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda now: "/sign-in/" not in now)


def desk(page: Page, live_server: LiveServer) -> Desk:
    project = factories.make_project(name="Garden of answers")
    labeler = factories.make_member(project, "labeler", "lena")
    round_ = factories.make_round(project)
    sign_in(page, live_server.url, "lena")
    return Desk(page, live_server.url, project, round_, labeler)
