"""Which task comes next, and whose it is: decided in the database, by the functions of migration 0011.

Own work comes first; then nearly finished tasks, a bounded look at them; then the round's order. A
labeler's ``Standing.reached`` says where in the order to go on, so that nobody passes over what they
have done again; at the end of the order comes what was freed before that place meanwhile. Every
look is bounded: it costs the same however many tasks there are.
"""

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from labelapp.models import Assignment, Project, Round, Standing, User
from labelapp.prepared import execute, inserted

WINDOW = 50  # nearly finished tasks, or those of highest priority, that one claim looks at
STRIDE = 16  # how far a labeler goes before the place is written down again
_CLAIM = "SELECT lease, outcome FROM labelapp_claim(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_LEASE = "SELECT labelapp_lease(%s, %s, %s, %s, %s)"


def lease_end(moment: datetime) -> datetime:
    """When a lease that begins or is renewed now runs out."""
    return moment + timedelta(seconds=settings.LEASE_SECONDS)


def standings_of(round_: Round, labeler: User) -> dict[str, Standing]:
    """Where the labeler stands in the round, by kind of task."""
    return {each.kind: each for each in Standing.objects.filter(round=round_, labeler=labeler)}


def claim(project: Project, labeler: User, kinds: Sequence[str]) -> tuple[UUID | None, str]:
    """The assignment that is this labeler's now, if any, and why there is none.

    That is "stranger" for who is no member, "quota" for who has done their share of the round, or
    nothing where there is nothing left.
    """
    moment = timezone.now()
    dice = [random.random(), random.random()]  # for rounds of active order
    values = (
        *(project.pk, labeler.pk, list(labeler.avoids), list(kinds)),
        *(moment, lease_end(moment), _born(), dice, WINDOW, STRIDE),
    )
    with execute(_CLAIM, values) as cursor:
        lease, why = cursor.fetchone()
    return lease, why


def lease(task_id: int, labeler: User) -> UUID | None:
    """This very task for the labeler, as ``claim`` leases it; its row is locked by the caller."""
    moment = timezone.now()
    with execute(_LEASE, (task_id, labeler.pk, moment, lease_end(moment), _born())) as cursor:
        (found,) = cursor.fetchone()
    return found  # type: ignore[no-any-return]


@cache
def _born() -> str:
    """What every new assignment has, but for what the database fills in."""
    new = Assignment(lease_until=timezone.now())
    columns = {name: value for name, value in inserted(new).items() if not name.endswith("_id")}
    return json.dumps(columns | {"draft": {}}, default=str)
