"""The labelers' pages: what is waiting, and the task in work."""

from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import QuotaReached
from labelapp.models import (
    HIGHEST,
    LOWEST,
    Assignment,
    Flag,
    Membership,
    RatingField,
    Role,
    Round,
    Task,
    UseCase,
)
from labelapp.selectors.concerns import answers_unseen, thread_of
from labelapp.selectors.history import undo_open
from labelapp.selectors.progress import labeler_progress
from labelapp.selectors.queue import (
    AssignmentView,
    assignment_get,
    assignment_view,
    in_hand,
    queue_counts,
    tasks_done,
    waiting_for_answers,
)
from labelapp.services.assignments import assignment_claim_next
from labelapp.views.access import member
from labelapp.views.rating_fields import flags_asked, strength_steps
from labelapp.views.wording import keys_for, task_wording

TEMPLATES = {
    Task.Kind.DEMONSTRATION: "labelapp/demonstration.html",
    Task.Kind.RANKING: "labelapp/ranking.html",
    Task.Kind.PROMPT: "labelapp/prompt_writing.html",
    Task.Kind.PAIRWISE: "labelapp/pairwise.html",
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
    undo = undo_open(project=project, labeler=labeler)
    context = {
        "membership": membership,
        "round": round_,
        "queue": queue,
        "total": sum(each.count for each in queue.values()),
        "waiting": waiting_for_answers(round_),
        "pairs_waiting": waiting_for_answers(round_, Task.Kind.PAIRWISE)
        if round_ and round_.pairs_wanted
        else None,
        "hand": hand,
        "quota": round_.quota
        if round_ and round_.quota and progress.in_round >= round_.quota
        else None,
        "progress": progress,
        "first_visit": not (
            hand
            or undo
            or progress.demonstrations
            or progress.rankings
            or progress.prompts
            or progress.votes
        ),
        "undo": undo,
        "answered": answers_unseen(project=project, labeler=labeler),
        "keys": keys_for(labeler),
    }
    return render(request, "labelapp/work.html", context)


@require_POST
@member(Role.LABELER)
def work_next(request: HttpRequest, membership: Membership) -> HttpResponse:
    """Claim the next task, or say that there is none. ``after`` says what led here."""
    kind = request.POST.get("kind") or None
    project, labeler = membership.project, membership.user
    quota = ""
    try:
        claimed = assignment_claim_next(project=project, labeler=labeler, kind=kind)
    except QuotaReached as error:
        claimed, quota = None, error.message
    undo = undo_open(project=project, labeler=labeler)
    said = {
        "submitted": "" if undo else _("Submitted, thank you."),  # the offer to undo says so too
        "surplus": _("Kept beside the others: its place had gone to someone else meanwhile."),
        "written": _("Written, thank you. Now see the others, and rank them."),
        "skipped": _("Skipped. It will not come back to you."),
    }.get(request.POST.get("after", ""))
    if said:
        messages.success(request, said)
    if claimed is None:
        if quota:
            messages.info(request, quota)
        elif not request.POST.get("after"):
            messages.info(request, _("There is no task for you right now."))
        return redirect("work", slug=project.slug)
    return redirect("task", slug=project.slug, assignment_id=claimed.pk)


@never_cache
@require_safe
@member(Role.LABELER)
def task(request: HttpRequest, membership: Membership, assignment_id: UUID) -> HttpResponse:
    """The task in work: the page that one writes or ranks on."""
    project = membership.project
    assignment = assignment_get(
        labeler=membership.user, project=project, assignment_id=assignment_id
    )
    if assignment.state in Assignment.HANDED_IN and assignment.correcting_since is None:
        return redirect("history-label", slug=project.slug, assignment_id=assignment.pk)
    if not assignment.writable:
        messages.info(request, _("You have skipped that task; it went to others."))
        return redirect("work", slug=project.slug)
    seen = assignment_view(assignment)
    own_first = seen.kind == Task.Kind.RANKING and seen.step == "write"
    kind = Task.Kind.DEMONSTRATION if own_first else Task.Kind(seen.kind)
    context = {
        "membership": membership,
        "task": seen,
        "use_case": UseCase(seen.use_case).label if seen.use_case else "",
        "use_cases": UseCase.choices,
        "page_data": _page_data(seen, project.slug),
        "wording": task_wording(),
        "skip_reasons": _skip_reasons(seen),
        "undo": undo_open(project=project, labeler=membership.user),
        "done": tasks_done(assignment),
        "flag_categories": Flag.Category.choices,
        "thread": thread_of(assignment),
        "keys": keys_for(membership.user, kind),
        "rate_overall": RatingField.OVERALL in seen.rating_fields,
        "scale": range(LOWEST, HIGHEST + 1),
        "flags": flags_asked(seen.rating_fields, membership.user.keys),
        "strengths": strength_steps(),
        "break_minutes": settings.BREAK_HINT_MINUTES,
    }
    return render(request, TEMPLATES[kind], context)


def _page_data(seen: AssignmentView, slug: str) -> dict[str, object]:
    """What the page's script needs; no model version and no sample id is in it."""
    where = {"slug": slug, "assignment_id": seen.id}
    names = {"draft", "heartbeat", "preview", "submit", "skip", "concerns", "flag", "note"}
    urls = {name: reverse(f"api-{name}", kwargs=where) for name in sorted(names)}
    return {
        "id": str(seen.id),
        "kind": seen.kind,
        "state": seen.state,
        "token": seen.token,
        "correcting": seen.correcting,
        "urls": urls,
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
        "now": timezone.now(),
        "lease_until": seen.lease_until,
        "lease_seconds": settings.LEASE_SECONDS,
        "draft": seen.draft,
        "draft_saved_at": seen.draft_saved_at,
        "active_ms": seen.active_ms,
        "idle_ms": seen.idle_ms,
        "token_limit": seen.token_limit,
        "letters": [answer.letter for answer in seen.answers],
        "ratings_required": seen.ratings_required,
    }


def _skip_reasons(seen: AssignmentView) -> list[str]:
    """In English, as they are kept; the page shows them in the reader's language."""
    shared = [
        gettext_noop("I do not know enough to judge this"),
        gettext_noop("The prompt makes no sense"),
    ]
    if seen.step in ("rank", "vote"):
        shared.append(gettext_noop("None of the answers can be read"))
    elif seen.kind == Task.Kind.PROMPT:
        shared = [
            gettext_noop("Nothing comes to my mind"),
            gettext_noop("I do not understand this use case"),
        ]
    return [*shared, gettext_noop("It upsets me")]
