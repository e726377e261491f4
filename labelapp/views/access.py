"""The door to every page of a project."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from labelapp.models import Membership, Role
from labelapp.selectors.access import membership_get

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, Membership, P], HttpResponseBase]


def member(*roles: Role) -> Callable[[View[P]], Callable[..., HttpResponseBase]]:
    """Let in members of the project in the address whose role is among ``roles`` (none: all).

    The view gets the membership in place of the ``slug``. Strangers are sent to sign in;
    others meet NotFound or NotAllowed, which the error middleware turns into pages.
    """

    def decorate(view: View[P]) -> Callable[..., HttpResponseBase]:
        @login_required
        @wraps(view)
        def guarded(
            request: HttpRequest, slug: str, *args: P.args, **kwargs: P.kwargs
        ) -> HttpResponseBase:
            membership = membership_get(
                user=request.user,  # type: ignore[arg-type]
                slug=slug,
                roles=roles or None,
            )
            return view(request, membership, *args, **kwargs)

        return guarded

    return decorate
