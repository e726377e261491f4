"""Who asks, by token: ``Authorization: Bearer TOKEN``."""

from django.utils.translation import gettext_lazy as _
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from labelapp.models import User
from labelapp.selectors.access import LiveToken, token_get
from labelapp.services.tokens import token_sha256

WRONG = _("This token is unknown, revoked or has expired; ask for a new one.")


class TokenAuthentication(BaseAuthentication):
    """The labeler behind a live token; ``request.auth`` is the token, whose scope views check."""

    def authenticate(self, request: Request) -> tuple[User, LiveToken] | None:
        scheme, _space, sent = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        live = token_get(token_sha256(sent.strip()))
        if live is None:
            raise AuthenticationFailed(WRONG)
        return live.token.user, live

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
