"""The page for what we did not foresee."""

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string


def server_error(request: HttpRequest) -> HttpResponse:
    """The 500 page. It asks neither session nor database: they may be what failed."""
    return HttpResponse(render_to_string("500.html", {"request": request}), status=500)
