"""A person's own language; errors that a person can act on become pages."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import translation

from labelapp.errors import LabelappError

_TEMPLATES = {400: "400.html", 403: "403.html", 404: "404.html", 409: "409.html"}


class OwnLanguage:
    """Speak the language that the person signed in has chosen.

    Without a choice, and for strangers, Django's LocaleMiddleware has asked the cookie of the
    language switch and then the browser.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        chosen = getattr(request.user, "language", "")
        if chosen:
            translation.activate(chosen)
            request.LANGUAGE_CODE = chosen
        return self.get_response(request)


class ErrorPages:
    """Render a LabelappError raised by a view as its designed page; the API has its own.

    So is the empty answer to a visit of an address that takes only what a form sends.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code == 405 and not response.content:
            page = render(request, "405.html", status=405)
            page["Allow"] = response["Allow"]
            return page
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Django calls this for what a view raised; None leaves it to the 500 page."""
        if not isinstance(error, LabelappError):
            return None
        template = _TEMPLATES.get(error.status, "409.html")
        return render(request, template, {"message": error.message}, status=error.status)
