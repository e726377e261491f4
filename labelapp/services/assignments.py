"""Claiming, keeping and giving back work. A claim is one short transaction."""

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, LeaseExpired, NotFound, QuotaReached, StateConflict
from labelapp.models import Assignment, Project, Round, Standing, Task, User
from labelapp.prepared import Given, Prepared
from labelapp.selectors.queue import assignment_get
from labelapp.services.next_task import claim, lease, lease_end, standings_of

DRAFT_BYTES = 200_000


_LOCKED = Prepared(
    lambda: (
        Assignment.objects.select_for_update(of=("self",))
        .select_related("task__round", "labeler")
        .filter(pk=Given("assignment"), labeler=Given("labeler"))
        .order_by()
    )
)


def assignment_lock(
    *, assignment_id: UUID, labeler: User, project: Project | None = None
) -> Assignment:
    """The labeler's own assignment, of ``project`` if given, its row locked; else NotFound."""
    assignment = _LOCKED.first(assignment=assignment_id, labeler=labeler.pk)
    if assignment is None or (project is not None and assignment.project_id != project.pk):
        raise NotFound(_("There is no such task among yours."))
    return assignment


def assignment_claim_next(
    *, project: Project, labeler: User, kind: str | None = None
) -> Assignment | None:
    """The labeler's work in hand, else the next open task; None when nothing is left.

    One labeler's claims follow each other, so that two tabs share a lease. Of the kinds, the one
    this labeler did least of, by the round's weights, comes first. Raises QuotaReached once they
    have handed in as many as one labeler may.
    """
    if kind is not None and kind not in Task.Kind.values:
        raise BadInput(
            _("There are no tasks of kind %(kind)s.") % {"kind": repr(kind)},
            fields={"kind": _("Unknown.")},
        )
    kinds = Task.Kind.values if kind is None else [kind]
    found, why = claim(project, labeler, kinds)
    if found is None and not why and assignments_lapse():  # before the next sweep does it
        found, why = claim(project, labeler, kinds)
    if why == "stranger":
        raise NotFound(_("You are not a member of this project."))
    if why == "quota":
        round_ = project.rounds.get(state=Round.State.OPEN)
        quota_check(round_, standings_of(round_, labeler))
    return (
        None
        if found is None
        else assignment_get(assignment_id=found, labeler=labeler, project=project)
    )


def quota_check(round_: Round, standings: Mapping[str, Standing]) -> None:
    """QuotaReached for a labeler who, by their standings, has done their share of the round."""
    if round_.quota and sum(each.handed_in for each in standings.values()) >= round_.quota:
        raise QuotaReached(
            _(
                "You have handed in %(quota)s tasks, which is all that one person does in round %(number)s. Thank you; the next round brings new work."
            )
            % {"quota": round_.quota, "number": round_.number}
        )


@transaction.atomic
def assignment_give(*, task_id: int, labeler: User) -> Assignment:
    """This very task for this labeler. StateConflict where it is closed, done, or another's."""
    task = Task.objects.select_for_update().get(pk=task_id)
    own = Assignment.objects.filter(task=task, labeler=labeler).first()
    if own is not None and own.state == Assignment.State.LEASED:
        return own
    if own is not None and own.state != Assignment.State.LAPSED:
        raise StateConflict(_("You have finished that task."))
    if task.state != Task.State.OPEN or task.taken >= task.overlap:
        raise StateConflict(_("That task is closed, or someone else has it now."))
    quota_check(task.round, standings_of(task.round, labeler))
    leased = lease(task_id, labeler)
    if leased is None:
        raise StateConflict(_("You are handing in that task in another window."))
    return assignment_get(assignment_id=leased, labeler=labeler, project=task.project)


def shown_shuffle(*, task_id: int, labeler_id: int, items: list[int]) -> list[int]:
    """The order in which this labeler sees a task's answers, given in the order of their index.

    It depends on the task and the labeler alone; ``labelapp_lease`` in the database draws the same.
    """

    def drawn(nth: int) -> str:
        return hashlib.md5(f"{task_id} {labeler_id} {nth}".encode()).hexdigest()  # noqa: S324

    return [items[nth] for nth in sorted(range(len(items)), key=drawn)]


def _expect_token(assignment: Assignment, token: UUID | None) -> None:
    """A page that was opened under an earlier lease must not write over a later one's draft."""
    if token is not None and token != assignment.token:
        raise StateConflict(
            _("You have taken this task up again in another window; reload the page.")
        )


@transaction.atomic
def assignment_heartbeat(
    *, assignment_id: UUID, labeler: User, token: UUID | None = None
) -> Assignment:
    """Hold the task a while longer. A lapsed one is taken up again if its place is free."""
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    _expect_token(assignment, token)
    if assignment.state == Assignment.State.LAPSED:
        task = Task.objects.select_for_update().get(pk=assignment.task_id)
        if task.taken >= task.overlap:
            raise LeaseExpired(
                _("Your time on this task ran out and others have answered it since.")
            )
    elif assignment.state != Assignment.State.LEASED:
        raise StateConflict(_("This task is no longer in work."))
    assignment.state = Assignment.State.LEASED
    assignment.lease_until = lease_end(timezone.now())
    assignment.save(update_fields=["state", "lease_until"])
    return assignment


def active_ms_bounded(assignment: Assignment, active_ms: int | None) -> int:
    """The browser's count of active time, never more than the server's clock allows."""
    elapsed = int((timezone.now() - assignment.claimed_at).total_seconds() * 1000)
    return max(assignment.active_ms, min(max(active_ms or 0, 0), elapsed))


def idle_ms_bounded(assignment: Assignment, idle_ms: int | None) -> int:
    """The browser's count of idle time: with the active time never more than has passed."""
    elapsed = int((timezone.now() - assignment.claimed_at).total_seconds() * 1000)
    left = max(elapsed - assignment.active_ms, 0)
    return min(max(assignment.idle_ms, idle_ms or 0), left)


def draft_checked(draft: dict[str, Any]) -> dict[str, Any]:
    """The draft, unless it is too long to be kept."""
    if len(str(draft)) > DRAFT_BYTES:
        raise BadInput(_("This draft is too long to be kept."), fields={"draft": _("Too long.")})
    return draft


def _expect_own_window(kept: object, sent: object, over: str | None) -> None:
    """Two windows of one task must not write over each other unseen."""
    if not isinstance(kept, str) or not isinstance(sent, str) or kept == over:
        return
    if kept.rpartition(":")[0] != sent.rpartition(":")[0]:
        raise StateConflict(
            _("You went on with this task in another window; reload this one to go on from there.")
        )


def _overtaken(kept: object, sent: object) -> bool:
    """Whether the same window's later draft has come before this one, over another connection."""
    if not isinstance(kept, str) or not isinstance(sent, str):
        return False
    window, number = sent.rpartition(":")[::2]
    other, later = kept.rpartition(":")[::2]
    return window == other and number.isdecimal() and later.isdecimal() and int(number) < int(later)


@transaction.atomic
def assignment_draft_save(
    *,
    assignment_id: UUID,
    labeler: User,
    draft: dict[str, Any],
    active_ms: int | None = None,
    token: UUID | None = None,
    idle_ms: int | None = None,
    over: str | None = None,
) -> Assignment:
    """Keep what was typed or placed so far. Kept for lapsed assignments too: nothing is lost.

    A draft with a ``stamp`` ("window:number") is of a page. It is refused where another window
    has written since the one that this page began with, whose stamp is ``over``; an earlier one
    of the same window that comes late changes nothing.
    """
    draft_checked(draft)
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    _expect_token(assignment, token)
    if not assignment.writable:
        raise StateConflict(_("This task was already handed in; its draft is closed."))
    kept, sent = assignment.draft.get("stamp"), draft.get("stamp")
    _expect_own_window(kept, sent, over)
    if _overtaken(kept, sent):
        return assignment
    assignment.draft = draft
    assignment.draft_saved_at = timezone.now()
    assignment.active_ms = active_ms_bounded(assignment, active_ms)
    assignment.idle_ms = idle_ms_bounded(assignment, idle_ms)
    fields = ["draft", "draft_saved_at", "active_ms", "idle_ms"]
    if assignment.state == Assignment.State.LEASED:
        assignment.lease_until = lease_end(timezone.now())
        fields.append("lease_until")
    assignment.save(update_fields=fields)
    return assignment


@transaction.atomic
def assignment_skip(*, assignment_id: UUID, labeler: User, reason: str) -> Assignment:
    """Give the task to others, with a reason; it does not come back to this labeler."""
    reason = reason.strip()
    if not reason:
        raise BadInput(_("Say in a few words why you skip it."), fields={"reason": _("Missing.")})
    if len(reason) > 200:
        raise BadInput(
            _("Keep the reason under 200 characters."), fields={"reason": _("Too long.")}
        )
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    if assignment.state == Assignment.State.SKIPPED:
        return assignment
    if assignment.state not in (Assignment.State.LEASED, Assignment.State.LAPSED):
        raise StateConflict(_("This task was already handed in."))
    assignment.state = Assignment.State.SKIPPED
    assignment.skip_reason = reason
    assignment.ended_at = timezone.now()
    assignment.save(update_fields=["state", "skip_reason", "ended_at"])
    return assignment


@transaction.atomic
def assignments_lapse() -> int:
    """Free the places of leases that ran out; returns how many. Safe to run twice."""
    ids = list(
        Assignment.objects.lapsed()
        .select_for_update(skip_locked=True)
        .values_list("pk", flat=True)[:1000]
    )
    return Assignment.objects.filter(pk__in=ids).update(state=Assignment.State.LAPSED)
