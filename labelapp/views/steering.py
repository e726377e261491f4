"""What the admins' and researchers' pages share: live regions, paging, messages for refusals."""

import hashlib
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.db.models import Model, QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string

from labelapp.errors import BadInput, StateConflict

PAGE_SIZE = 50
LIVE_SECONDS = 2
OPEN_SECONDS = 15
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')
Row = TypeVar("Row", bound=Model)


def page_of(request: HttpRequest, rows: "QuerySet[Row]", size: int = PAGE_SIZE) -> "Page[Row]":
    """The page that ``?page=`` asks for; the nearest one where it asks for nonsense."""
    return Paginator(rows, size).get_page(request.GET.get("page"))


def is_htmx(request: HttpRequest) -> bool:
    """Whether htmx asks for a piece of the page."""
    return request.headers.get("HX-Request") == "true"


def refused(request: HttpRequest, error: BadInput | StateConflict) -> None:
    """Say on the next page why something was not done."""
    messages.error(request, error.message)


def add_errors(form: Form, error: BadInput | StateConflict) -> None:
    """Put a service's refusal onto the form that caused it."""
    placed = [name for name in error.fields if name in form.fields]
    for name in placed:
        form.add_error(name, error.fields[name])
    form.add_error(None, error.message)


def live_context(
    request: HttpRequest, *, template: str, context: dict[str, Any], url: str, every: int
) -> dict[str, Any]:
    """The context of ``_live.html``: a region that asks for itself again ``every`` seconds, 0 never.

    ``seen`` names the content, so that a poll which would change nothing answers 204.
    """
    inner = render_to_string(template, context, request)
    seen = hashlib.sha256(_TOKEN.sub("", inner).encode()).hexdigest()[:16]
    return {"live": {"inner": inner, "seen": seen, "url": url, "every": every}}


def live_answer(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What a poll of the region gets."""
    if request.GET.get("seen") == context["live"]["seen"] and context["live"]["every"]:
        return HttpResponse(status=204)
    return render(request, "labelapp/_live.html", context)


def polled(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Reload the whole page where a poll finds its reader signed out, in place of a sign-in form
    inside the region."""

    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if is_htmx(request) and not request.user.is_authenticated:
            return HttpResponse(status=204, headers={"HX-Refresh": "true"})
        return view(request, *args, **kwargs)

    return answered
