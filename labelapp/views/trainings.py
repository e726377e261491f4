"""A training as it runs: stages, curves, stopping, trying again, what came out."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import StateConflict
from labelapp.models import Membership, Role, Run, Training
from labelapp.selectors.lists import training_get, training_snapshots, training_versions
from labelapp.selectors.registry import StageView, TrainingView, training_view
from labelapp.services.trainings import training_retry, training_stop
from labelapp.tasks import runs_nudge
from labelapp.views.access import member
from labelapp.views.charts import run_charts, stage_figures
from labelapp.views.steering import LIVE_SECONDS, live_answer, live_context, polled, refused

TENTH = 0.1


def _stages(view: TrainingView, slug: str) -> list[dict[str, Any]]:
    return [
        {
            "view": stage,
            "left": _seconds_left(stage),
            "figures": stage_figures(stage.stage, stage.figures),
            "charts": run_charts(slug, stage.run_id, stage.stage, stage.figures)
            if stage.step
            else [],
        }
        for stage in view.stages
    ]


def _seconds_left(stage: StageView) -> float | None:
    """About how long a running stage still takes, once a tenth of it is done."""
    if stage.state != Run.State.RUNNING or stage.seconds is None or stage.fraction < TENTH:
        return None
    return stage.seconds / stage.fraction - stage.seconds


def _live(request: HttpRequest, membership: Membership, training: Training) -> dict[str, Any]:
    view = training_view(training)
    versions = training_versions(training)
    slug = membership.project.slug
    stages = _stages(view, slug)
    context = {
        "membership": membership,
        "training": training,
        "view": view,
        "stages": stages,
        "drawn": [stage for stage in reversed(stages) if stage["charts"]],
        "failed": [stage for stage in view.stages if stage.reason],
        "policy": next((v for v in versions if v.run.stage == Run.Stage.PPO), None),
        "stopping": any(stage.stopping for stage in view.stages),
    }
    return context | live_context(
        request,
        template="labelapp/_training_live.html",
        context=context,
        url=reverse("training-live", args=[slug, training.pk]),
        every=LIVE_SECONDS if view.live else 0,
    )


@require_safe
@member(Role.RESEARCHER, Role.ADMIN)
def training_page(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    training = training_get(project=membership.project, pk=pk)
    context = _live(request, membership, training)
    context["snapshots"] = training_snapshots(training)
    return render(request, "labelapp/training.html", context)


@require_safe
@never_cache
@polled
@member(Role.RESEARCHER, Role.ADMIN)
def training_live(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """The part of the page that changes while workers are at it."""
    training = training_get(project=membership.project, pk=pk)
    return live_answer(request, _live(request, membership, training))


@require_POST
@member(Role.ADMIN)
def training_end(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """Stop after the next checkpoint."""
    try:
        training_stop(training=training_get(project=membership.project, pk=pk), by=membership.user)
    except StateConflict as error:
        refused(request, error)
    else:
        messages.info(request, _("The training stops after its next checkpoint."))
    return redirect("training", slug=membership.project.slug, pk=pk)


@require_POST
@member(Role.ADMIN)
def training_again(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """Go on from the last checkpoint of what failed or was stopped."""
    try:
        training_retry(training=training_get(project=membership.project, pk=pk), by=membership.user)
    except StateConflict as error:
        refused(request, error)
    else:
        runs_nudge()
        messages.info(request, _("It goes on from the last checkpoint."))
    return redirect("training", slug=membership.project.slug, pk=pk)
