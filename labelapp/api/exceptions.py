"""One JSON shape for every error: {"error": {"code", "message", "fields"}}."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler

from labelapp.errors import LabelappError


def _body(code: str, message: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": fields or {}}}


def handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Turn what an API view raised into a response; None leaves it to Django's 500."""
    if isinstance(error, LabelappError):
        return Response(_body(error.code, error.message, error.fields), status=error.status)
    response = exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, exceptions.ValidationError):
        fields = error.detail if isinstance(error.detail, dict) else {}
        shown = {name: " ".join(map(str, problems)) for name, problems in fields.items()}
        first = next((f"{name}: {problem}" for name, problem in shown.items()), str(error))
        response.data = _body("bad_input", first, shown)
    elif isinstance(error, Http404):
        response.data = _body("not_found", _("There is nothing at this address."))
    elif isinstance(error, PermissionDenied):
        response.data = _body("not_allowed", _("You may not do this."))
    elif isinstance(error, exceptions.APIException):
        codes = error.get_codes()
        response.data = _body(codes if isinstance(codes, str) else "error", str(error.detail))
    return response
