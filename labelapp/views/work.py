"""The labelers' pages: what is waiting, and the task in work."""

from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import QuotaReached
from labelapp.models import (
    HIGHEST,
    LOWEST,
    Assignment,
    Membership,
    RatingField,
    Role,
    Round,
    Task,
    UseCase,
)
from labelapp.selectors.progress import labeler_progress
from labelapp.selectors.queue import (
    AssignmentView,
    assignment_get,
    assignment_view,
    in_hand,
    queue_counts,
    waiting_for_answers,
)
from labelapp.services.assignments import assignment_claim_next
from labelapp.views.access import member
from labelapp.views.rating_fields import flags_asked, strength_steps
from labelapp.views.wording import task_wording

TEMPLATES = {
    Task.Kind.DEMONSTRATION: "labelapp/demonstration.html",
    Task.Kind.RANKING: "labelapp/ranking.html",
}


@never_cache
@require_safe
@member(Role.LABELER)
def work(request: HttpRequest, membership: Membership) -> HttpResponse:
    """One button to the next task, and what is waiting."""
    project, labeler = membership.project, membership.user
    round_ = project.rounds.filter(state=Round.State.OPEN).select_related("instructions").first()
    queue = {each.kind: each for each in queue_counts(round_=round_, labeler=labeler)}
    hand = in_hand(project=project, labeler=labeler)
    progress = labeler_progress(project=project, labeler=labeler)
    context = {
        "membership": membership,
        "round": round_,
        "queue": queue,
        "total": sum(each.count for each in queue.values()),
        "waiting": waiting_for_answers(round_),
        "hand": hand,
        "quota": round_.quota
        if round_ and round_.quota and progress.in_round >= round_.quota
        else None,
        "progress": progress,
        "first_visit": not (hand or progress.demonstrations or progress.rankings),
    }
    return render(request, "labelapp/work.html", context)


@require_POST
@member(Role.LABELER)
def work_next(request: HttpRequest, membership: Membership) -> HttpResponse:
    """Claim the next task, or say that there is none. ``after`` says what led here."""
    kind = request.POST.get("kind") or None
    quota = ""
    try:
        claimed = assignment_claim_next(
            project=membership.project, labeler=membership.user, kind=kind
        )
    except QuotaReached as error:
        claimed, quota = None, error.message
    said = {
        "submitted": _("Submitted, thank you."),
        "surplus": _("Kept beside the others: its place had gone to someone else meanwhile."),
        "skipped": _("Skipped. It will not come back to you."),
    }.get(request.POST.get("after", ""))
    if said:
        messages.success(request, said)
    if claimed is None:
        if quota:
            messages.info(request, quota)
        elif not said:
            messages.info(request, _("There is no task for you right now."))
        return redirect("work", slug=membership.project.slug)
    return redirect("task", slug=membership.project.slug, assignment_id=claimed.pk)


@never_cache
@require_safe
@member(Role.LABELER)
def task(request: HttpRequest, membership: Membership, assignment_id: UUID) -> HttpResponse:
    """The task in work: the page that one writes or ranks on."""
    project = membership.project
    assignment = assignment_get(
        labeler=membership.user, project=project, assignment_id=assignment_id
    )
    if assignment.state not in (Assignment.State.LEASED, Assignment.State.LAPSED):
        messages.info(request, _("You have finished that task. Labels are not changed afterwards."))
        return redirect("work", slug=project.slug)
    seen = assignment_view(assignment)
    context = {
        "membership": membership,
        "task": seen,
        "use_case": UseCase(seen.use_case).label,
        "page_data": _page_data(seen, project.slug),
        "wording": task_wording(),
        "skip_reasons": _skip_reasons(seen.kind),
        "rate_overall": RatingField.OVERALL in seen.rating_fields,
        "scale": range(LOWEST, HIGHEST + 1),
        "flags": flags_asked(seen.rating_fields),
        "strengths": strength_steps(),
    }
    return render(request, TEMPLATES[Task.Kind(seen.kind)], context)


def _page_data(seen: AssignmentView, slug: str) -> dict[str, object]:
    """What the page's script needs; no model version and no sample id is in it."""
    where = {"slug": slug, "assignment_id": seen.id}
    names = {"draft", "heartbeat", "submit", "skip"}
    return {
        "id": str(seen.id),
        "kind": seen.kind,
        "state": seen.state,
        "token": seen.token,
        "urls": {name: reverse(f"api-{name}", kwargs=where) for name in sorted(names)},
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
        "now": timezone.now(),
        "lease_until": seen.lease_until,
        "lease_seconds": settings.LEASE_SECONDS,
        "draft": seen.draft,
        "draft_saved_at": seen.draft_saved_at,
        "active_ms": seen.active_ms,
        "letters": [answer.letter for answer in seen.answers],
        "ratings_required": seen.ratings_required,
    }


def _skip_reasons(kind: str) -> list[str]:
    shared = [_("I do not know enough to judge this"), _("The prompt makes no sense")]
    if kind == Task.Kind.RANKING:
        shared.append(_("None of the answers can be read"))
    return [*shared, _("It upsets me")]
