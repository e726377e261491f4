"""The door to every page of a project."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from labelapp.models import Membership, Role
from labelapp.selectors.access import membership_get

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, Membership, P], HttpResponseBase]


def sign_in_first(request: HttpRequest) -> HttpResponseRedirect:
    """To the sign-in page, and from there to what was asked for; after a form, to its page.

    A form's own address takes no visit: who was signed out meanwhile goes back to where they
    pressed the button, if the browser says where that was.
    """
    if request.method in ("GET", "HEAD"):
        return redirect_to_login(request.get_full_path())
    page = request.headers.get("referer", "")
    ours = url_has_allowed_host_and_scheme(page, {request.get_host()}, request.is_secure())
    return redirect_to_login(page if page and ours else reverse("home"))


def signed_in(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Let in whoever has signed in; all others sign in first."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return sign_in_first(request)
        return view(request, *args, **kwargs)

    return guarded


def member(*roles: Role) -> Callable[[View[P]], Callable[..., HttpResponseBase]]:
    """Let in members of the project in the address whose role is among ``roles`` (none: all).

    The view gets the membership in place of the ``slug``. Strangers are sent to sign in;
    others meet NotFound or NotAllowed, which the error middleware turns into pages.
    """

    def decorate(view: View[P]) -> Callable[..., HttpResponseBase]:
        @signed_in
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
