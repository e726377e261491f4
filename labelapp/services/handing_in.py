"""What every submit does: a retry finds what it made, the assignment ends, a correction is chained."""

from typing import Any, TypeVar
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Demonstration, Prompt, Ranking, Round, Task, Vote
from labelapp.services.assignments import active_ms_bounded, draft_checked, idle_ms_bounded
from labelapp.services.settling import settles_at

Label = TypeVar("Label", Demonstration, Ranking, Vote, Prompt)
OfLabel = TypeVar("OfLabel", Demonstration, Ranking, Vote)


CLOSED = (
    *("state", "draft", "active_ms", "idle_ms", "ended_at", "settles_at"),
    *("undo_until", "correcting_since"),
)
"""What a submit changes of an assignment."""


def of_another_task() -> BadInput:
    """Of a submit whose ``client_id`` is taken."""
    return BadInput(
        _("This submit belongs to another task; reload the page."),
        fields={"client_id": _("Used for another task.")},
    )


def earlier_submit(model: type[Label], assignment: Assignment, client_id: UUID) -> Label | None:
    """What an earlier try of the same submit made; none where this is the first."""
    label = model.objects.filter(client_id=client_id).first()
    if label is not None and label.assignment_id != assignment.pk:
        raise of_another_task()
    if client_id in assignment.withdrawn_ids:
        raise StateConflict(_("You took this submit back; submit again from the task's page."))
    if (
        label is None
        and assignment.state in Assignment.HANDED_IN
        and assignment.correcting_since is None
    ):
        raise StateConflict(_("You have handed in this task already, in another window perhaps."))
    if label is None and assignment.state == Assignment.State.SKIPPED:
        raise StateConflict(_("You have skipped this task; it went to others."))
    return label


def _close(assignment: Assignment, active_ms: int | None, idle_ms: int | None) -> None:
    """Submitted, or surplus where the place had gone to others; not saved yet."""
    surplus = False
    if assignment.state != Assignment.State.LEASED:  # a lease has its place already
        task = Task.objects.select_for_update().get(pk=assignment.task_id)
        surplus = task.taken >= task.overlap
    assignment.state = Assignment.State.SURPLUS if surplus else Assignment.State.SUBMITTED
    assignment.active_ms = active_ms_bounded(assignment, active_ms)
    assignment.idle_ms = idle_ms_bounded(assignment, idle_ms)
    assignment.ended_at = assignment.settles_at = timezone.now()


def hand_in(
    model: type[Label],
    assignment: Assignment,
    active_ms: int | None,
    idle_ms: int | None,
    draft: dict[str, Any] | None,
) -> dict[str, Any]:
    """Mark the assignment as handed in, not saved yet (``CLOSED``); its label's place in the chain of
    versions, and when it settles.
    """
    assignment.undo_until = settles_at(assignment.labeler)
    if draft is not None:
        assignment.draft = draft_checked(draft)
    if assignment.correcting_since is None:
        chain: dict[str, Any] = {"version": 1}
        _close(assignment, active_ms, idle_ms)
        assignment.settles_at = assignment.undo_until
    else:
        chain = _next_version(model, assignment)
        assignment.active_ms = active_ms_bounded(assignment, active_ms)
        assignment.idle_ms = idle_ms_bounded(assignment, idle_ms)
    assignment.correcting_since = None
    return {**chain, "assignment": assignment, "settles_at": assignment.undo_until}


def label_hand_in(
    model: type[OfLabel],
    assignment: Assignment,
    active_ms: int | None,
    idle_ms: int | None,
    draft: dict[str, Any] | None,
) -> dict[str, Any]:
    """As ``hand_in``; the fields that labels of all kinds share."""
    return {
        **hand_in(model, assignment, active_ms, idle_ms, draft),
        "project_id": assignment.project_id,
        "labeler": assignment.labeler,
        "active_ms": assignment.active_ms,
        "idle_ms": assignment.idle_ms,
        "surplus": assignment.state == Assignment.State.SURPLUS,
        "simulated": assignment.labeler.simulated,
    }


def _next_version(model: type[Label], assignment: Assignment) -> dict[str, Any]:
    """The place of a correction in its chain. Only while the round is open."""
    round_expect_open(assignment)
    versions = dict(
        model.objects.filter(assignment=assignment).order_by("version").values_list("version", "pk")
    )
    return {"version": max(versions) + 1, "corrects_id": versions[1]}


def round_expect_open(assignment: Assignment) -> None:
    """Raise StateConflict once labels of the assignment's round are not corrected any more."""
    if assignment.task.round.state != Round.State.OPEN:
        raise StateConflict(_("The round is closed; its labels are not corrected any more."))


def expect_kind(assignment: Assignment, kind: str) -> None:
    if assignment.task.kind != kind:
        raise BadInput(
            _("This task is of another kind: %(kind)s, not %(sent)s.")
            % {"kind": assignment.task.get_kind_display(), "sent": Task.Kind(kind).label}
        )
