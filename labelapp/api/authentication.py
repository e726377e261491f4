"""Who asks, by token: ``Authorization: Bearer TOKEN``."""

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from labelapp.models import ApiToken, User
from labelapp.services.tokens import token_sha256

WRONG = _("This token is unknown, revoked or has expired; ask for a new one.")


class TokenAuthentication(BaseAuthentication):
    """The labeler behind a live token; ``request.auth`` is the token, whose scope views check."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _space, sent = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = (
            ApiToken.objects.select_related("user")
            .filter(
                token_sha256=token_sha256(sent.strip()),
                revoked_at=None,
                expires_at__gt=timezone.now(),
                user__is_active=True,
            )
            .first()
        )
        if token is None:
            raise AuthenticationFailed(WRONG)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
