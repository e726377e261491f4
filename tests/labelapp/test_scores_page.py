"""What the round's page says of the reward models that order its tasks."""

import re
import uuid

import pytest
from django.utils import timezone

from labelapp.models import Run
from tests.factories import make_member, make_project
from tests.labelapp.steering_cast import admin_of, main_of, signed_in, text
from tests.labelapp.test_scores import sampled, scoring_of, trained_reward_models

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

ROUND = "/p/garden/rounds/2/"


def test_the_page_says_who_judges_and_how_far_they_are() -> None:
    project = make_project()
    trained_reward_models(project, 2)
    sampling = sampled(project, random_share=0.25)
    client = admin_of(project)
    page = main_of(client.get(ROUND))
    for said in ("Judges: labelers", "25.0% of what is handed out", "as soon as all answers"):
        assert said in page
    run = scoring_of(sampling)
    page = re.sub(r"</?a[^>]*>", "", main_of(client.get(ROUND)))
    assert "Judges: reward-1, reward-0 and labelers, once their rankings count" in page
    assert page.count("Waiting for a GPU worker.") == 1
    Run.objects.filter(pk=run.pk).update(
        state="running", step=3, total=8, lease_token=uuid.uuid4(), lease_until=timezone.now()
    )
    assert "3 of 8 parts" in main_of(client.get(ROUND))
    Run.objects.filter(pk=run.pk).update(state="done")
    page = main_of(client.get(ROUND))
    assert "The reward models have scored the answers." in page
    assert "Score the answers again" not in page


def test_a_failed_scoring_says_why_and_an_admin_may_try_it_again() -> None:
    project = make_project()
    trained_reward_models(project, 1)
    run = scoring_of(sampled(project))
    Run.objects.filter(pk=run.pk).update(state="failed", error="The disk is full.")
    client = admin_of(project)
    page = main_of(client.get(ROUND))
    assert "Scoring the answers failed: The disk is full. Labeling goes on" in page
    assert "Score the answers again" in page
    researcher = signed_in(make_member(project, "researcher"))
    assert "Score the answers again" not in main_of(researcher.get(ROUND))
    page = text(client.post(f"{ROUND}scores/", follow=True))
    assert "The reward models are asked again." in page
    assert Run.objects.get(pk=run.pk).state == "queued"
    page = text(client.post(f"{ROUND}scores/", follow=True))
    assert "There is no scoring to go on with" in page


def test_another_order_asks_no_reward_model_and_says_nothing_of_one() -> None:
    project = make_project()
    sampled(project, order="random")
    assert "Judges:" not in main_of(admin_of(project).get("/p/garden/rounds/1/"))
