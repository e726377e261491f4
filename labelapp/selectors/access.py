"""Who may look at what: the one door to a project."""

from collections.abc import Collection
from dataclasses import dataclass

from django.db import connection
from django.db.models import OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import NotAllowed, NotFound
from labelapp.models import ApiToken, Membership, Role, User
from labelapp.prepared import Given, Prepared


def _live_tokens() -> QuerySet[ApiToken]:
    theirs = Membership.objects.filter(project=OuterRef("project"), user=OuterRef("user"))
    return (
        ApiToken.objects.select_related("user", "project")
        .annotate(member=theirs.order_by().values("pk"), role=theirs.order_by().values("role"))
        .filter(token_sha256=Given("token"), revoked_at=None, expires_at__gt=Given("now"))
        .filter(user__is_active=True)
        .order_by()
    )


_LIVE_TOKENS = Prepared(_live_tokens)


@dataclass(frozen=True)
class LiveToken:
    """A token that opens something, and the membership it acts for, while there is one."""

    token: ApiToken
    membership: Membership | None


def token_get(token_sha256: str) -> LiveToken | None:
    """The live token of an active person that has this hash; person and project are loaded."""
    token = _LIVE_TOKENS.first(token=token_sha256, now=timezone.now())
    if token is None:
        return None
    key, role = (getattr(token, name) for name in ("member", "role"))
    if key is None:
        return LiveToken(token, None)
    names, values = ("id", "project_id", "user_id", "role"), (key, token.project_id, token.user_id)
    membership = Membership.from_db(connection.alias, names, (*values, role))
    membership.project, membership.user = token.project, token.user
    return LiveToken(token, membership)


def membership_get(
    *,
    user: User,
    slug: str,
    roles: Collection[Role] | None = None,
    token: LiveToken | None = None,
) -> Membership:
    """This person's membership in the project, its project loaded.

    Raises NotFound to those outside (a project's existence is not theirs to know) and
    NotAllowed to members whose role is not among ``roles``. With ``token`` it need not be asked.
    """
    known = token.membership if token else None
    if known is not None and known.project.slug == slug:
        return _with_role(known, roles)
    membership = (
        Membership.objects.select_related("project", "user")
        .filter(user_id=user.pk, user__is_active=True, project__slug=slug)
        .first()
    )
    if membership is None:
        raise NotFound(_("There is no such project, or you are not a member of it."))
    return _with_role(membership, roles)


def _with_role(membership: Membership, roles: Collection[Role] | None) -> Membership:
    if roles is not None and membership.role not in roles:
        raise NotAllowed(_("Your role in this project does not include this page."))
    return membership


def memberships_of(user: User) -> list[Membership]:
    """All projects of a person, by name."""
    return list(
        Membership.objects.select_related("project")
        .filter(user_id=user.pk, user__is_active=True)
        .order_by("project__name")
    )
