"""What people change about themselves."""

from collections.abc import Mapping, Sequence

from labelapp.keys import keys_checked
from labelapp.models import User
from labelapp.services.prompts import sensitive_checked


def account_name_set(*, user: User, full_name: str) -> User:
    """Set how the person is called; empty falls back to the user name."""
    user.first_name, _, user.last_name = " ".join(full_name.split())[:150].partition(" ")
    user.save(update_fields=["first_name", "last_name"])
    return user


def account_keys_set(*, user: User, wanted: Mapping[str, str], bare: bool) -> User:
    """Set the keys of the task pages; BadInput names the actions whose keys collide."""
    user.keys, user.bare_keys = keys_checked(wanted), bare
    user.save(update_fields=["keys", "bare_keys"])
    return user


def account_avoids_set(*, user: User, avoids: Sequence[str]) -> User:
    """Opt out of categories of sensitive content: the claim gives no tasks with them any more."""
    user.avoids = list(sensitive_checked(list(avoids)))
    user.save(update_fields=["avoids"])
    return user
