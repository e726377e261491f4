"""Who works here: the list, invites, roles, deactivating, password resets. For admins."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import BadInput, StateConflict
from labelapp.forms.people import ActiveForm, InviteForm, RoleForm
from labelapp.models import Membership, Role
from labelapp.selectors.lists import invites_open, member_get, people_list
from labelapp.services.people import (
    invite_create,
    member_active_set,
    member_role_set,
    password_reset_link,
)
from labelapp.views.access import member
from labelapp.views.steering import is_htmx, page_of, refused


def _page(
    request: HttpRequest, membership: Membership, *, status: int = 200, **extra: Any
) -> HttpResponse:
    words = request.GET.get("words", "")[:200]
    context = {
        "membership": membership,
        "people": page_of(request, people_list(membership.project, words=words)),
        "words": words,
        "invites": invites_open(membership.project),
        "roles": Role.choices,
        "invite_form": InviteForm(),
    }
    return render(request, "labelapp/people.html", context | extra, status=status)


@require_safe
@member(Role.ADMIN)
def people(request: HttpRequest, membership: Membership) -> HttpResponse:
    return _page(request, membership)


@require_POST
@never_cache
@member(Role.ADMIN)
def person_invite(request: HttpRequest, membership: Membership) -> HttpResponse:
    """Make an invite and show its link, this once."""
    form = InviteForm(request.POST)
    if not form.is_valid():
        if is_htmx(request):
            return render(
                request,
                "labelapp/_invite_form.html",
                {"membership": membership, "invite_form": form},
            )
        return _page(request, membership, invite_form=form, status=400)
    invite, token = invite_create(
        project=membership.project,
        role=form.cleaned_data["role"],
        note=form.cleaned_data["note"],
        by=membership.user,
    )
    link = request.build_absolute_uri(reverse("invite", args=[token]))
    shown = {
        "link": link,
        "title": _("Invite link for: %(who)s") % {"who": invite.note or invite.get_role_display()},
        "hint": _("Works once, until %(day)s.") % {"day": date_format(invite.expires_at)},
    }
    return _once(request, membership, shown)


def _once(request: HttpRequest, membership: Membership, shown: dict[str, str]) -> HttpResponse:
    """A link that is shown now and never again."""
    if is_htmx(request):
        return render(request, "labelapp/_link_once.html", {"shown": shown})
    return _page(request, membership, shown=shown)


@require_POST
@member(Role.ADMIN)
def person_role(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    person = member_get(project=membership.project, pk=pk)
    form = RoleForm(request.POST)
    if not form.is_valid():
        raise BadInput(_("Choose a role: labeler, researcher or admin."))
    try:
        member_role_set(membership=person, role=form.cleaned_data["role"])
    except StateConflict as error:
        refused(request, error)
    else:
        role = Role(form.cleaned_data["role"]).label
        messages.success(
            request, _("%(name)s is now: %(role)s.") % {"name": person.user, "role": role}
        )
    return redirect("people", slug=membership.project.slug)


@require_POST
@member(Role.ADMIN)
def person_active(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    person = member_get(project=membership.project, pk=pk)
    form = ActiveForm(request.POST)
    if not form.is_valid():
        raise BadInput(_("Say whether the person should be active: yes or no."))
    active = form.cleaned_data["active"]
    try:
        member_active_set(membership=person, active=active, by=membership.user)
    except StateConflict as error:
        refused(request, error)
    else:
        said = _("%(name)s can sign in again.") if active else _("%(name)s can no longer sign in.")
        messages.success(request, said % {"name": person.user})
    return redirect("people", slug=membership.project.slug)


@require_POST
@never_cache
@member(Role.ADMIN)
def person_reset(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """Make a link with which the person sets a new password, and show it, this once."""
    person = member_get(project=membership.project, pk=pk)
    try:
        path = password_reset_link(membership=person, by=membership.user)
    except StateConflict as error:
        refused(request, error)
        return redirect("people", slug=membership.project.slug)
    shown = {
        "link": request.build_absolute_uri(path),
        "title": _("New password for %(name)s") % {"name": person.user},
        "hint": _("Works once, for three days. The old password works until it is used."),
    }
    return _once(request, membership, shown)
