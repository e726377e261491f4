"""Inviting people, changing what they may do, and letting them back in."""

import hashlib
import secrets
from datetime import timedelta

from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.tokens import default_token_generator
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, NotFound, StateConflict
from labelapp.models import Invite, Membership, Project, Role, User

INVITE_DAYS = 7


def _token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def invite_create(*, project: Project, role: str, by: User, note: str = "") -> tuple[Invite, str]:
    """A link's token, shown once, and its row, which keeps only the hash."""
    if role not in Role.values:
        raise BadInput(
            _("There is no role %(role)s.") % {"role": repr(role)}, fields={"role": _("Unknown.")}
        )
    token = secrets.token_urlsafe(32)
    invite = Invite.objects.create(
        project=project,
        role=role,
        token_sha256=_token_sha256(token),
        note=note.strip()[:120],
        created_by=by,
        expires_at=timezone.now() + timedelta(days=INVITE_DAYS),
    )
    return invite, token


def invite_find(*, token: str) -> Invite:
    """The live invite behind a link. Raises NotFound for unknown, used or expired ones."""
    invite = (
        Invite.objects.select_related("project").filter(token_sha256=_token_sha256(token)).first()
    )
    if invite is None or not invite.live:
        raise NotFound(_("This invitation was used or has expired; ask for a new one."))
    return invite


def user_create(
    *, username: str, password: str, full_name: str = "", simulated: bool = False
) -> User:
    """A new person; BadInput when the name is taken or the password too weak."""
    username = username.strip()
    first, _space, last = full_name.strip().partition(" ")
    user = User(username=username, first_name=first, last_name=last, simulated=simulated)
    try:
        UnicodeUsernameValidator()(username)
        validate_password(password, user)
    except ValidationError as error:
        raise BadInput(" ".join(error.messages)) from None
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError:
        raise BadInput(
            _("This name is taken; choose another."), fields={"username": _("Taken.")}
        ) from None
    return user


@transaction.atomic
def invite_accept(*, token: str, username: str, password: str, full_name: str = "") -> User:
    """Make the person behind a link a member; the link works once."""
    invite = invite_find(token=token)
    locked = Invite.objects.select_for_update().get(pk=invite.pk)
    if not locked.live:
        raise NotFound(_("This invitation was used or has expired; ask for a new one."))
    user = user_create(username=username, password=password, full_name=full_name)
    Membership.objects.create(project=invite.project, user=user, role=invite.role)
    locked.used_by = user
    locked.used_at = timezone.now()
    locked.save(update_fields=["used_by", "used_at"])
    return user


def _refuse_losing_last_admin(membership: Membership) -> None:
    """Lock the project's admins and make sure that another active one remains."""
    admins = list(
        Membership.objects.select_for_update(of=("self",)).filter(
            project_id=membership.project_id, role=Role.ADMIN, user__is_active=True
        )
    )
    if [admin.pk for admin in admins] == [membership.pk]:
        raise StateConflict(_("This is the project's last admin; make someone else admin first."))


@transaction.atomic
def member_role_set(*, membership: Membership, role: str) -> None:
    """Change what a member may do."""
    if role not in Role.values:
        raise BadInput(
            _("There is no role %(role)s.") % {"role": repr(role)}, fields={"role": _("Unknown.")}
        )
    if role != Role.ADMIN:
        _refuse_losing_last_admin(membership)
    Membership.objects.filter(pk=membership.pk).update(role=role)


def _refuse_beyond_own_projects(membership: Membership, by: User) -> None:
    """Sign-in and password are a person's in every project: who changes them must be admin in all."""
    user = membership.user
    mine = by.memberships.filter(role=Role.ADMIN).values("project")
    beyond = user.memberships.exclude(project__in=mine).exists() or user.is_staff
    if beyond and not by.is_superuser and user != by:
        raise StateConflict(
            _(
                "%(user)s belongs to more than this project, so one of its admins cannot do that. Ask who runs the server: manage.py changepassword, or the site administration."
            )
            % {"user": user}
        )


@transaction.atomic
def member_active_set(*, membership: Membership, active: bool, by: User) -> None:
    """Let a person sign in, or no longer. Their labels stay either way."""
    _refuse_beyond_own_projects(membership, by)
    if not active:
        _refuse_losing_last_admin(membership)
    User.objects.filter(pk=membership.user_id).update(is_active=active)


def password_reset_link(*, membership: Membership, by: User) -> str:
    """The path of a link with which this person sets a new password; it works once."""
    _refuse_beyond_own_projects(membership, by)
    user = membership.user
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return reverse("password-reset", args=[uid, default_token_generator.make_token(user)])
