"""After the submit: taking it back while it does not count yet, correcting it once it does."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labelapp.errors import StateConflict
from labelapp.models import Assignment, Demonstration, Prompt, Ranking, User, Vote
from labelapp.selectors.history import label_draft, labels_of, locked
from labelapp.services.assignments import assignment_lock
from labelapp.services.handing_in import round_expect_open
from labelapp.services.settling import undo_begin

TOO_LATE = gettext_lazy(
    "It is too late to take this back: it counts by now. Correct it in your history instead."
)


@transaction.atomic
def label_undo(*, assignment_id: UUID, labeler: User) -> Assignment:
    """Take the last submit back: the task is open again, with all that was handed in as its draft.

    Asked again, it changes nothing. Raises StateConflict once the label counts.
    """
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    if assignment.writable:
        if not assignment.withdrawn_ids:
            raise StateConflict(_("Nothing of this task was handed in yet."))
        return assignment
    if assignment.state not in Assignment.HANDED_IN:
        raise StateConflict(_("This task was skipped; there is nothing to take back."))
    undo_begin(assignment.project_id)
    label = labels_of(assignment).filter(settles_at__gt=Now()).order_by("-version").first()
    if label is None:
        raise StateConflict(TOO_LATE)
    assert label.client_id is not None
    _draft_write(assignment, label)
    assignment.withdrawn_ids = [*assignment.withdrawn_ids, label.client_id]
    assignment.undo_until = None
    if label.version > 1:
        assignment.correcting_since = timezone.now()
    else:
        held = assignment.state == Assignment.State.SUBMITTED
        assignment.state = Assignment.State.LEASED if held else Assignment.State.LAPSED
        assignment.lease_until = timezone.now() + timedelta(seconds=settings.LEASE_SECONDS)
        assignment.ended_at = assignment.settles_at = None
    label.delete()
    assignment.save()
    return assignment


@transaction.atomic
def correction_open(*, assignment_id: UUID, labeler: User) -> Assignment:
    """Open a label of one's own for its next version, with what it says now. Repeatable."""
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    if assignment.correcting_since is not None:
        return assignment
    if assignment.state not in Assignment.HANDED_IN:
        raise StateConflict(_("This task was not handed in; there is nothing to correct."))
    round_expect_open(assignment)
    if locked(assignment):
        raise StateConflict(_("This round shows who wrote which; a vote that counts is locked."))
    label = labels_of(assignment).settled().order_by("-version").first()
    if label is None or labels_of(assignment).filter(settles_at__gt=Now()).exists():
        raise StateConflict(_("You submitted this a moment ago; take it back instead."))
    _draft_write(assignment, label)
    assignment.correcting_since = timezone.now()
    assignment.save()
    return assignment


@transaction.atomic
def correction_drop(*, assignment_id: UUID, labeler: User) -> Assignment:
    """Leave a label as it is: what was typed for its next version is dropped. Repeatable."""
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    if assignment.correcting_since is not None:
        assignment.correcting_since = None
        assignment.save(update_fields=["correcting_since"])
    return assignment


def _draft_write(assignment: Assignment, label: Demonstration | Ranking | Vote | Prompt) -> None:
    """The page as it was handed in; its next submit is another one, with a client id of its own."""
    kept: dict[str, Any] = {k: v for k, v in assignment.draft.items() if k != "client_id"}
    assignment.draft = kept | label_draft(label, assignment.shown_order)
    assignment.draft_saved_at = timezone.now()
