"""Choosing the language of the pages: kept with the account, and in a cookie for the sign-in page."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from labelapp.models import User
from labelapp.services.accounts import account_language_set, language_checked


@require_POST
def language(request: HttpRequest) -> HttpResponse:
    """Take a language, or with an empty one the browser's, and go back to where it was chosen."""
    chosen = language_checked(request.POST.get("language", ""))
    if isinstance(request.user, User):
        account_language_set(user=request.user, language=chosen)
    back = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
        back = resolve_url("home")
    response = redirect(back)
    if chosen:
        response.set_cookie(
            settings.LANGUAGE_COOKIE_NAME,
            chosen,
            max_age=settings.LANGUAGE_COOKIE_AGE,
            secure=settings.LANGUAGE_COOKIE_SECURE,
            httponly=settings.LANGUAGE_COOKIE_HTTPONLY,
            samesite="Lax",
        )
    else:
        response.delete_cookie(settings.LANGUAGE_COOKIE_NAME)
    return response
