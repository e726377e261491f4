"""A labeler's own labels: taken back, looked at, corrected."""

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import StateConflict
from labelapp.models import Assignment, Membership, Role, Task, UseCase
from labelapp.selectors.concerns import thread_of
from labelapp.selectors.history import correctable, locked, revealed, undo_open, versions_of
from labelapp.selectors.history import history as history_of
from labelapp.selectors.queue import assignment_get, assignment_view
from labelapp.services.aftercare import correction_drop, correction_open, label_undo
from labelapp.views.access import member
from labelapp.views.wording import keys_for

PER_PAGE = 25


@require_POST
@member(Role.LABELER)
def work_undo(request: HttpRequest, membership: Membership, assignment_id: UUID) -> HttpResponse:
    """Take a submit back and open its task again."""
    slug = membership.project.slug
    own = _own(membership, assignment_id)
    try:
        label_undo(assignment_id=own.pk, labeler=membership.user)
    except StateConflict as error:
        messages.error(request, error.message)
        return redirect("history-label", slug=slug, assignment_id=own.pk)
    messages.success(request, _("Taken back. Everything is as you left it."))
    return redirect("task", slug=slug, assignment_id=own.pk)


@never_cache
@require_safe
@member(Role.LABELER)
def history(request: HttpRequest, membership: Membership) -> HttpResponse:
    """What this labeler has handed in, newest first."""
    kind = request.GET.get("kind", "")
    kind = kind if kind in Task.Kind.values else ""
    found = history_of(project=membership.project, labeler=membership.user, kind=kind)
    context = {
        "membership": membership,
        "tasks": Paginator(found, PER_PAGE).get_page(request.GET.get("page")),
        "kind": kind,
        "kind_query": f"kind={kind}" if kind else "",
        "undo": undo_open(project=membership.project, labeler=membership.user),
        "keys": keys_for(membership.user),
    }
    return render(request, "labelapp/history.html", context)


@never_cache
@require_safe
@member(Role.LABELER)
def history_label(
    request: HttpRequest, membership: Membership, assignment_id: UUID
) -> HttpResponse:
    """One handed-in task: the prompt, and every version of the label."""
    assignment = _own(membership, assignment_id)
    if assignment.state not in Assignment.HANDED_IN:
        return redirect("task", slug=membership.project.slug, assignment_id=assignment.pk)
    seen = assignment_view(assignment)
    context = {
        "membership": membership,
        "task": seen,
        "assignment": assignment,
        "use_case": UseCase(seen.use_case).label if seen.use_case else "",
        "versions": versions_of(assignment),
        "correctable": correctable(assignment),
        "locked": locked(assignment),
        "revealed": revealed(assignment),
        "thread": thread_of(assignment),
        "undo": undo_open(project=membership.project, labeler=membership.user),
        "keys": keys_for(membership.user),
    }
    return render(request, "labelapp/history_label.html", context)


@require_POST
@member(Role.LABELER)
def correct(request: HttpRequest, membership: Membership, assignment_id: UUID) -> HttpResponse:
    """Open a label for its next version."""
    slug, own = membership.project.slug, _own(membership, assignment_id)
    try:
        correction_open(assignment_id=own.pk, labeler=membership.user)
    except StateConflict as error:
        messages.error(request, error.message)
        return redirect("history-label", slug=slug, assignment_id=own.pk)
    return redirect("task", slug=slug, assignment_id=own.pk)


@require_POST
@member(Role.LABELER)
def correct_drop(request: HttpRequest, membership: Membership, assignment_id: UUID) -> HttpResponse:
    """Leave a label as it was."""
    own = _own(membership, assignment_id)
    correction_drop(assignment_id=own.pk, labeler=membership.user)
    messages.info(request, _("Left as it was."))
    return redirect("history-label", slug=membership.project.slug, assignment_id=own.pk)


def _own(membership: Membership, assignment_id: UUID) -> Assignment:
    return assignment_get(
        labeler=membership.user, project=membership.project, assignment_id=assignment_id
    )
