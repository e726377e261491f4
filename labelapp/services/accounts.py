"""What people change about themselves."""

from labelapp.models import User


def account_name_set(*, user: User, full_name: str) -> User:
    """Set how the person is called; empty falls back to the user name."""
    user.first_name, _, user.last_name = " ".join(full_name.split())[:150].partition(" ")
    user.save(update_fields=["first_name", "last_name"])
    return user
