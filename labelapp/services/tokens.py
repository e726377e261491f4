"""Tokens for the labeling API: drawn here, shown once, kept as a hash."""

import hashlib
import secrets
from datetime import timedelta

from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, NotAllowed
from labelapp.models import ApiToken, Membership, Project, Role, User

TOKEN_DAYS = 30
LONGEST_DAYS = 365


def token_sha256(token: str) -> str:
    """How a token is kept; 32 random bytes need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def token_create(
    *, project: Project, labeler: User, days: int = TOKEN_DAYS
) -> tuple[ApiToken, str]:
    """A token that may take and hand in this labeler's tasks in this project, and nothing else."""
    if not 1 <= days <= LONGEST_DAYS:
        raise BadInput(
            _("A token lives from 1 to %(days)s days.") % {"days": LONGEST_DAYS},
            fields={"days": _("Out of range.")},
        )
    if not Membership.objects.filter(project=project, user=labeler, role=Role.LABELER).exists():
        raise NotAllowed(
            _("%(labeler)s is no labeler of %(project)s; tokens are for labelers.")
            % {"labeler": labeler, "project": project}
        )
    token = secrets.token_urlsafe(32)
    row = ApiToken.objects.create(
        project=project,
        user=labeler,
        token_sha256=token_sha256(token),
        expires_at=timezone.now() + timedelta(days=days),
    )
    return row, token


def tokens_revoke(*, project: Project, labeler: User) -> int:
    """End all of a labeler's tokens in the project; returns how many still lived."""
    live = ApiToken.objects.filter(
        project=project, user=labeler, revoked_at=None, expires_at__gt=timezone.now()
    )
    return live.update(revoked_at=timezone.now())
