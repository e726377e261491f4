"""What people change about themselves."""

from collections.abc import Mapping, Sequence

from django.conf import settings
from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.keys import keys_checked
from labelapp.models import User
from labelapp.services.prompts import sensitive_checked


def account_name_set(*, user: User, full_name: str) -> User:
    """Set how the person is called; empty falls back to the user name."""
    user.first_name, _space, user.last_name = " ".join(full_name.split())[:150].partition(" ")
    user.save(update_fields=["first_name", "last_name"])
    return user


def account_keys_set(*, user: User, wanted: Mapping[str, str], bare: bool) -> User:
    """Set the keys of the task pages; BadInput names the actions whose keys collide."""
    user.keys, user.bare_keys = keys_checked(wanted), bare
    user.save(update_fields=["keys", "bare_keys"])
    return user


def language_checked(language: str) -> str:
    """One of the interface's languages, or empty; BadInput for any other."""
    if language and language not in dict(settings.LANGUAGES):
        raise BadInput(_("There is no such language here."), fields={"language": _("Unknown.")})
    return language


def account_language_set(*, user: User, language: str) -> User:
    """Set the language of the pages; empty follows the browser."""
    user.language = language_checked(language)
    user.save(update_fields=["language"])
    return user


def account_avoids_set(*, user: User, avoids: Sequence[str]) -> User:
    """Opt out of categories of sensitive content: the claim gives no tasks with them any more."""
    user.avoids = list(sensitive_checked(list(avoids)))
    user.save(update_fields=["avoids"])
    return user
