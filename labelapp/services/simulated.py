"""Accounts of simulated labelers: marked, members like others, with a password of the moment."""

import secrets
from collections.abc import Sequence

from django.db import transaction

from labelapp.errors import BadInput
from labelapp.models import Membership, Project, Role, User
from labelapp.services.people import user_create


@transaction.atomic
def simulated_labelers_prepare(*, project: Project, usernames: Sequence[str]) -> dict[str, str]:
    """Make or find the accounts; user name -> a fresh random password, kept nowhere else.

    Raises BadInput where a name belongs to a person, or the account may not label here.
    """
    passwords = {}
    for username in usernames:
        password = secrets.token_urlsafe(24)
        user = User.objects.select_for_update().filter(username=username).first()
        if user is None:
            user = user_create(username=username, password=password, simulated=True)
        elif not user.simulated:
            raise BadInput(f"{username} is a person's account; choose another --prefix.")
        elif not user.is_active:
            raise BadInput(f"{username} is deactivated; activate it or choose another --prefix.")
        else:
            user.set_password(password)
            user.save(update_fields=["password"])
        member, _ = Membership.objects.get_or_create(
            project=project, user=user, defaults={"role": Role.LABELER}
        )
        if member.role != Role.LABELER:
            raise BadInput(f"{username} is {member.role} here, not labeler; change its role back.")
        passwords[username] = password
    return passwords


@transaction.atomic
def simulated_chief_get(*, username: str) -> User:
    """The account in whose name a program opens rounds and starts training; nobody signs in to it."""
    user, made = User.objects.get_or_create(username=username, defaults={"simulated": True})
    if made:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    if not user.simulated:
        raise BadInput(f"{username} is a person's account; rename it first.")
    return user
