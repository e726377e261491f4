"""The page of a round in active order, while reward models judge its answers and when they failed."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser
from pytest_django.live_server_helper import LiveServer

from labelapp.models import Run
from tests.e2e.test_admin_pages import running
from tests.e2e.visitor import visitor
from tests.factories import make_member, make_project
from tests.labelapp.test_scores import sampled, scoring_of, trained_reward_models

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_pages_of_a_round_in_active_order(
    browser: Browser, live_server: LiveServer, store: Path
) -> None:
    project = make_project()
    trained_reward_models(project, 2)
    run = scoring_of(sampled(project))
    with visitor(browser, live_server.url) as who:
        who.be(make_member(project, "admin"))
        running(run, step=3)
        who.go("/p/garden/rounds/2/", "a round whose answers are being scored")
        Run.objects.filter(pk=run.pk).update(
            state="failed", error="Killed.", lease_token=None, lease_until=None
        )
        who.go("/p/garden/rounds/2/", "a round whose scoring failed")
