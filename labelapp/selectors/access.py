"""Who may look at what: the one door to a project."""

from collections.abc import Collection

from django.utils.translation import gettext as _

from labelapp.errors import NotAllowed, NotFound
from labelapp.models import Membership, Role, User


def membership_get(*, user: User, slug: str, roles: Collection[Role] | None = None) -> Membership:
    """This person's membership in the project, its project loaded.

    Raises NotFound to those outside (a project's existence is not theirs to know) and
    NotAllowed to members whose role is not among ``roles``.
    """
    membership = (
        Membership.objects.select_related("project", "user")
        .filter(user_id=user.pk, user__is_active=True, project__slug=slug)
        .first()
    )
    if membership is None:
        raise NotFound(_("There is no such project, or you are not a member of it."))
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
