"""Finding invites."""

from hashlib import sha256

from labelapp.models import Invite


def invite_by_token(*, token: str) -> Invite | None:
    """The invite that a link's token belongs to, used up or expired ones included."""
    digest = sha256(token.encode()).hexdigest()
    return Invite.objects.select_related("project").filter(token_sha256=digest).first()
