"""Who asks, by token: ``Authorization: Bearer TOKEN``."""

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from labelapp.models import ApiToken, User
from labelapp.services.tokens import token_sha256

WRONG = "This token is unknown, revoked or has expired; ask for a new one."


class TokenAuthentication(BaseAuthentication):
    """The labeler behind a live token; ``request.auth`` is the token, whose scope views check."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
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
