"""Where people land: by role in one project, or a choice of projects."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from labelapp.models import Membership, Role, User
from labelapp.selectors.access import memberships_of
from labelapp.views.access import member, signed_in

START = {Role.LABELER: "work", Role.ADMIN: "rounds", Role.RESEARCHER: "data"}


@require_safe
@signed_in
def home(request: HttpRequest) -> HttpResponse:
    """Straight to one's work, or to a choice where there are several projects, or none."""
    assert isinstance(request.user, User)
    memberships = memberships_of(request.user)
    if len(memberships) == 1:
        return _start(memberships[0])
    return render(request, "labelapp/home.html", {"memberships": memberships})


@require_safe
@member()
def project(request: HttpRequest, membership: Membership) -> HttpResponse:
    """The first page of a project for this member's role."""
    return _start(membership)


def _start(membership: Membership) -> HttpResponse:
    return redirect(START[Role(membership.role)], slug=membership.project.slug)
