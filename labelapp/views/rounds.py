"""Rounds: the list, a round and its work, opening and closing one, starting a training on it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from labelapp.errors import BadInput, StateConflict
from labelapp.forms.rounds import PromptChoiceForm, RoundForm, TrainingForm
from labelapp.models import PROMPTS_WANTED, Membership, Project, Role, Round, Run
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.selectors.answers import answers_named
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.judges import scoring_of
from labelapp.selectors.lists import (
    PersonWork,
    PromptCounts,
    prompt_counts,
    round_get,
    rounds_list,
    trainings_of,
    work_by_person,
)
from labelapp.selectors.pairs import pair_results
from labelapp.selectors.progress import round_progress
from labelapp.selectors.readiness import TrainingNeed, training_need
from labelapp.selectors.registry import pretrain_text_note
from labelapp.services.rounds import round_close, round_open
from labelapp.services.runs import pair_sampling_queue, sampling_queue
from labelapp.services.scores import scoring_retry
from labelapp.services.trainings import training_label_counts, training_start
from labelapp.tasks import runs_nudge
from labelapp.views.access import member
from labelapp.views.charts import burndown_chart
from labelapp.views.steering import (
    LIVE_SECONDS,
    OPEN_SECONDS,
    add_errors,
    live_answer,
    live_context,
    page_of,
    polled,
    refused,
)


@require_safe
@member(Role.RESEARCHER, Role.ADMIN)
def rounds(request: HttpRequest, membership: Membership) -> HttpResponse:
    project = membership.project
    context = {
        "membership": membership,
        "rounds": page_of(request, rounds_list(project)),
        "open_round": project.rounds.filter(state=Round.State.OPEN).first(),
    }
    return render(request, "labelapp/rounds.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@member(Role.ADMIN)
def round_new(request: HttpRequest, membership: Membership) -> HttpResponse:
    project = membership.project
    form = RoundForm(project=project, initial=_like_the_last(project.rounds.first()))
    if request.method == "POST":
        form = RoundForm(request.POST, project=project)
        if form.is_valid():
            try:
                opened = round_open(project=project, by=membership.user, **form.cleaned_data)
            except (BadInput, StateConflict) as error:
                add_errors(form, error)
            else:
                runs_nudge()
                messages.success(request, _("Round %(n)s is open.") % {"n": opened.number})
                return redirect("round", slug=project.slug, number=opened.number)
    counts = _counts(membership, request.POST if form.is_bound else None, form.initial)
    context = {
        "membership": membership,
        "form": form,
        "open_round": project.rounds.filter(state=Round.State.OPEN).first(),
        "policy": project.versions.filter(role="policy", state="current").first(),
        "counts": counts,
        "kinds": [(box, counts.kinds[box.data["value"]]) for box in form["kinds"]],
        "use_cases": [(box, counts.use_cases[box.data["value"]]) for box in form["use_cases"]],
    }
    return render(request, "labelapp/round_new.html", context, status=400 if form.errors else 200)


def _like_the_last(last: Round | None) -> dict[str, Any]:
    """The last round's choices, as a start for the next one."""
    if last is None:
        return {}
    names = (
        "kinds", "use_cases", "demonstrations_wanted", "rankings_wanted", "k", "overlap",
        "overlap_tasks", "write_first", "order", "random_share", "quota", "extra_overlap",
        "disagreement", "temperature", "max_new_tokens", "rating_fields", "ratings_required",
        "strength_asked", "live_prompting", "pairs_split", "reveal",
    )  # fmt: skip
    weights = {f"weight_{kind}": weight for kind, weight in last.kind_weights.items()}
    stated = {"stated_use_cases": "\n".join(last.stated_use_cases)}
    return {name: getattr(last, name) for name in (*names, *PROMPTS_WANTED)} | weights | stated


def _counts(
    membership: Membership, sent: QueryDict | None, initial: Mapping[str, Any]
) -> PromptCounts:
    """Prompts that fit what is ticked."""
    chosen: Mapping[str, Any] = initial
    if sent is not None:
        form = PromptChoiceForm(sent)
        chosen = form.cleaned_data if form.is_valid() else {}
    return prompt_counts(
        membership.project,
        kinds=list(chosen.get("kinds") or []),
        use_cases=list(chosen.get("use_cases") or []),
    )


@require_safe
@polled
@member(Role.ADMIN)
def round_new_counts(request: HttpRequest, membership: Membership) -> HttpResponse:
    """The counts beside the form, for what is ticked just now."""
    context = {"counts": _counts(membership, request.GET, {}), "oob": True}
    return render(request, "labelapp/_round_counts.html", context)


def _people(membership: Membership, shown: Round) -> list[PersonWork]:
    """Who did how much; researchers see the pseudonyms of the exports."""
    work = work_by_person(shown)
    if membership.role == Role.ADMIN:
        return work
    return [replace(person, name=labeler_pseudonym(person.labeler_id)) for person in work]


def _need(project: Project) -> TrainingNeed:
    return training_need(
        project,
        people=training_label_counts(project=project),
        everyone=training_label_counts(project=project, include_simulated=True),
    )


def _samplings(shown: Round) -> list[Run]:
    """The runs that draw the round's answers: the latest for the rankings, and those of the pairs."""
    runs = shown.runs.filter(stage=Run.Stage.SAMPLE)
    ranking = list(runs.filter(for_pairs=False).order_by("-created_at")[:1])
    if not shown.pairs_wanted:
        return ranking
    pairs = runs.filter(for_pairs=True).prefetch_related("inputs__version")
    return [*ranking, *pairs.order_by("created_at")]


def _live(request: HttpRequest, membership: Membership, shown: Round) -> dict[str, Any]:
    samplings = _samplings(shown)
    trainings = list(trainings_of(shown)[:10])
    running = any(run.state in (Run.State.QUEUED, Run.State.RUNNING) for run in samplings)
    running = running or any(training.state == "active" for training in trainings)
    scoring = scoring_of(shown)
    running = running or (scoring is not None and scoring.live)
    is_open = shown.state == Round.State.OPEN
    context = {
        "membership": membership,
        "round": shown,
        "progress": round_progress(shown),
        "people": _people(membership, shown),
        "samplings": samplings,
        "answers_named": answers_named(shown) if samplings else 0,
        "sampling_ended": any(run.state in ("failed", "cancelled") for run in samplings),
        "scoring": scoring,
        "pairs": pair_results(shown) if shown.pairs_wanted else None,
        "trainings": trainings,
        "need": _need(membership.project),
        "text_note": pretrain_text_note(),
        "running_training": membership.project.trainings.filter(state="active").first(),
        "chart": burndown_chart(shown),
    }
    return context | live_context(
        request,
        template="labelapp/_round_live.html",
        context=context,
        url=reverse("round-live", args=[membership.project.slug, shown.number]),
        every=LIVE_SECONDS if running else OPEN_SECONDS if is_open else 0,
    )


@require_safe
@member(Role.RESEARCHER, Role.ADMIN)
def round_page(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    shown = round_get(project=membership.project, number=number)
    return render(request, "labelapp/round.html", _live(request, membership, shown))


@require_safe
@never_cache
@polled
@member(Role.RESEARCHER, Role.ADMIN)
def round_live(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """The part of the round's page that changes while people and workers are at it."""
    shown = round_get(project=membership.project, number=number)
    return live_answer(request, _live(request, membership, shown))


@require_safe
@never_cache
@member(Role.RESEARCHER, Role.ADMIN)
def round_labels(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """The burn-down curves: labels left, per kind, over time."""
    return JsonResponse(round_burndown(round_get(project=membership.project, number=number)))


@require_POST
@member(Role.ADMIN)
def round_end(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """Close the round."""
    try:
        round_close(round=round_get(project=membership.project, number=number))
    except StateConflict as error:
        refused(request, error)
    else:
        messages.success(request, _("Round %(n)s is closed.") % {"n": number})
    return redirect("round", slug=membership.project.slug, number=number)


@require_POST
@member(Role.ADMIN)
def round_train(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """The one button: freeze the labels, then SFT, reward model and PPO."""
    shown = round_get(project=membership.project, number=number)
    form = TrainingForm(request.POST)
    try:
        training = training_start(
            round=shown,
            by=membership.user,
            include_simulated=form.is_valid() and form.cleaned_data["include_simulated"],
        )
    except (BadInput, StateConflict) as error:
        refused(request, error)
        return redirect("round", slug=membership.project.slug, number=number)
    runs_nudge()
    return redirect("training", slug=membership.project.slug, pk=training.pk)


@require_POST
@member(Role.ADMIN)
def round_sample_again(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """Go on drawing answers where that failed or was stopped."""
    try:
        shown = round_get(project=membership.project, number=number)
        sampling_queue(round=shown)
        pair_sampling_queue(round=shown)
    except (BadInput, StateConflict) as error:
        refused(request, error)
    else:
        runs_nudge()
        messages.info(request, _("The missing answers will be drawn."))
    return redirect("round", slug=membership.project.slug, number=number)


@require_POST
@member(Role.ADMIN)
def round_score_again(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """Go on scoring the answers where that failed or was stopped."""
    try:
        scoring_retry(round=round_get(project=membership.project, number=number))
    except StateConflict as error:
        refused(request, error)
    else:
        runs_nudge()
        messages.info(request, _("The reward models are asked again."))
    return redirect("round", slug=membership.project.slug, number=number)
