"""When a label begins to count.

For LABEL_GRACE_SECONDS after the submit a labeler may take it back, and until then nothing reads
it: no snapshot, no count, nobody else. Labels of simulated labelers count at once. Both sides ask
the database's clock, and a lock keeps them apart: before labels are frozen, undos under way end;
after that, what has settled cannot be taken back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.utils import timezone

from labelapp.models import User

_LOCKS = 0x1ABE1
"""The space of our advisory locks; the second number is the project."""


def settles_at(labeler: User) -> datetime:
    """When a label that is submitted now begins to count."""
    grace = 0 if labeler.simulated else settings.LABEL_GRACE_SECONDS
    return timezone.now() + timedelta(seconds=grace)


def undo_begin(project_id: int) -> None:
    """Until this transaction ends, no freeze of the project begins to read."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [_LOCKS, project_id])


@contextmanager
def _alone(project_id: int) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [_LOCKS, project_id])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCKS, project_id])


def undos_wait(project_id: int) -> None:
    """Wait until undos under way are done; call before labels are read to be frozen."""
    with _alone(project_id):
        pass
