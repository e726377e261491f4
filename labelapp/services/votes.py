"""Handing in a vote on a pair, as the other labels are handed in."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.models import Project, Task, User, Vote
from labelapp.services.assignments import assignment_lock
from labelapp.services.handing_in import CLOSED, earlier_submit, expect_kind, label_hand_in


@transaction.atomic
def vote_submit(
    *,
    assignment_id: UUID,
    labeler: User,
    choice: str,
    client_id: UUID,
    active_ms: int | None = None,
    idle_ms: int | None = None,
    draft: dict[str, Any] | None = None,
    project: Project | None = None,
) -> Vote:
    """Store which answer of a pair is better: ``left``, ``right``, ``tie`` or ``both_bad``.

    The sides are those that were drawn at the claim. The same ``client_id`` again gives the same
    row.
    """
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler, project=project)
    expect_kind(assignment, Task.Kind.PAIRWISE)
    earlier = earlier_submit(Vote, assignment, client_id)
    if earlier is not None:
        return earlier
    if choice not in Vote.Choice.values:
        raise BadInput(
            _("A vote is one of %(choices)s.") % {"choices": ", ".join(Vote.Choice.values)},
            fields={"choice": _("Unknown.")},
        )
    left, right = assignment.shown_order
    vote = Vote(
        task_id=assignment.task_id,
        left_id=left,
        right_id=right,
        choice=choice,
        client_id=client_id,
        **label_hand_in(Vote, assignment, active_ms, idle_ms, draft),
    )
    assignment.save(update_fields=CLOSED)
    vote.save(force_insert=True)
    return vote
