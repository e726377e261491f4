"""Questions and flags of labelers: the admins' page, and a labeler's "I have read it"."""

from uuid import uuid4

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import BadInput, StateConflict
from labelapp.forms.concerns import AnswerForm
from labelapp.models import Membership, Role
from labelapp.selectors.concerns import (
    concern_counts,
    flags_open,
    threads_answered,
    threads_waiting,
)
from labelapp.services.concerns import answers_seen, flag_resolve, note_answer, thread_settle
from labelapp.views.access import member
from labelapp.views.steering import page_of, refused

SIZE = 20


@never_cache
@require_safe
@member(Role.ADMIN)
def concerns(request: HttpRequest, membership: Membership) -> HttpResponse:
    """Open questions, open flags, or what was answered, a page at a time."""
    project = membership.project
    show = request.GET.get("show", "")
    show = show if show in {"flags", "answered"} else "questions"
    context: dict[str, object] = {
        "membership": membership,
        "show": show,
        "counts": concern_counts(project),
        "show_query": f"show={show}",
    }
    if show == "flags":
        context["flags"] = page_of(request, flags_open(project), SIZE)
    else:
        found = threads_waiting(project) if show == "questions" else threads_answered(project)
        threads = page_of(request, found, SIZE)
        context["threads"] = threads
        context["forms"] = [
            (thread, AnswerForm(initial={"client_id": uuid4()}, auto_id=f"{thread.pk}-%s"))
            for thread in threads
        ]
    return render(request, "labelapp/concerns.html", context)


@require_POST
@member(Role.ADMIN)
def thread_answer(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """Answer a question, or settle it without an answer."""
    project = membership.project
    try:
        if "settle" in request.POST:
            thread_settle(project=project, thread_id=pk)
            messages.success(request, _("Settled without an answer."))
        else:
            form = AnswerForm(request.POST)
            if not form.is_valid():
                raise BadInput(_("Write an answer first, of at most 2,000 characters."))
            note_answer(project=project, thread_id=pk, by=membership.user, **form.cleaned_data)
            messages.success(request, _("Answered. They see it in the task and on their page."))
    except (BadInput, StateConflict) as error:
        refused(request, error)
    return redirect("concerns", slug=project.slug)


@require_POST
@member(Role.ADMIN)
def flag_done(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """A flag was dealt with."""
    flag_resolve(project=membership.project, pk=pk, by=membership.user)
    messages.success(request, _("Flag resolved."))
    response = redirect("concerns", slug=membership.project.slug)
    response["Location"] += "?show=flags"
    return response


@require_POST
@member(Role.LABELER)
def thread_seen(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """The labeler has read an answer."""
    answers_seen(project=membership.project, labeler=membership.user, thread_id=pk)
    return redirect("work", slug=membership.project.slug)
