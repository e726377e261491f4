"""Claiming, keeping and giving back work. A claim is one short transaction."""

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from labelapp.errors import BadInput, LeaseExpired, NotFound, QuotaReached, StateConflict
from labelapp.models import Assignment, Membership, Project, Round, Sample, Standing, Task, User
from labelapp.services.next_task import Found, open_round, standings_of, task_next, turns

DRAFT_BYTES = 200_000


def _lease_end() -> Any:
    return timezone.now() + timedelta(seconds=settings.LEASE_SECONDS)


def assignment_lock(
    *, assignment_id: UUID, labeler: User, project: Project | None = None
) -> Assignment:
    """The labeler's own assignment, of ``project`` if given, its row locked; else NotFound."""
    of_project = {} if project is None else {"project": project}
    assignment = (
        Assignment.objects.select_for_update(of=("self",))
        .select_related("task__round", "labeler")
        .filter(pk=assignment_id, labeler=labeler, **of_project)
        .order_by()
        .first()
    )
    if assignment is None:
        raise NotFound("There is no such task among yours.")
    return assignment


@transaction.atomic
def assignment_claim_next(
    *, project: Project, labeler: User, kind: str | None = None
) -> Assignment | None:
    """The labeler's work in hand, else the next open task; None when nothing is left.

    The membership row serialises one labeler's claims, so that two tabs share a lease.
    Of the kinds, the one this labeler did least of, by the round's weights, comes first.
    Raises QuotaReached once they have handed in as many as one labeler may.
    """
    member = Membership.objects.select_for_update().filter(project=project, user=labeler).first()
    if member is None:
        raise NotFound("You are not a member of this project.")
    own = project.assignments.filter(labeler=labeler, state=Assignment.State.LEASED)
    in_hand = (
        own.select_related("task__prompt", "task__round__instructions")
        .select_for_update(of=("self",))
        .order_by("claimed_at")
        .first()
    )
    if in_hand is not None:
        in_hand.lease_until = _lease_end()
        in_hand.save(update_fields=["lease_until"])
        return in_hand
    if kind is not None and kind not in Task.Kind.values:
        raise BadInput(f"There are no tasks of kind {kind!r}.", fields={"kind": "Unknown."})
    at_work = open_round(project)
    if at_work is None:
        return None
    round_, kinds = at_work
    standings = standings_of(round_, labeler)
    quota_check(round_, standings)
    wanted = [each for each in kinds if kind in (None, each)]
    for turn in turns(round_, labeler, wanted, standings):
        found = task_next(turn)
        if found is not None:
            found.task.round = round_
            lease = _lease(found, labeler)
            if lease is not None:
                return lease
    return None


def quota_check(round_: Round, standings: Mapping[str, Standing]) -> None:
    """QuotaReached for a labeler who, by their standings, has done their share of the round."""
    if round_.quota and sum(each.handed_in for each in standings.values()) >= round_.quota:
        raise QuotaReached(
            f"You have handed in {round_.quota} tasks, which is all that one person does in "
            f"round {round_.number}. Thank you; the next round brings new work."
        )


def _lease(found: Found, labeler: User) -> Assignment | None:
    """A new lease, or this labeler's lapsed one again with its draft and shown order.

    None where the lapsed one is being handed in at this moment, in another window.
    """
    task = found.task
    if found.lapsed is None:
        return Assignment.objects.create(
            task=task,
            labeler=labeler,
            project_id=task.project_id,
            lease_until=_lease_end(),
            shown_order=shown_order_draw(task=task, labeler=labeler),
        )
    lapsed = Assignment.objects.filter(pk=found.lapsed, state=Assignment.State.LAPSED)
    # not waited for: a submit has locked its assignment first and may want the task that we hold
    assignment = lapsed.select_for_update(skip_locked=True).first()
    if assignment is None:
        return None
    assignment.task = task
    assignment.state = Assignment.State.LEASED
    assignment.token = uuid4()
    assignment.lease_until = _lease_end()
    assignment.save(update_fields=["state", "token", "lease_until"])
    return assignment


@transaction.atomic
def assignment_give(*, task_id: int, labeler: User) -> Assignment:
    """This very task for this labeler. StateConflict where it is closed, done, or another's."""
    task = Task.objects.select_for_update().get(pk=task_id)
    own = Assignment.objects.filter(task=task, labeler=labeler).first()
    if own is not None and own.state == Assignment.State.LEASED:
        return own
    if own is not None and own.state != Assignment.State.LAPSED:
        raise StateConflict("You have finished that task.")
    if task.state != Task.State.OPEN or task.taken >= task.overlap:
        raise StateConflict("That task is closed, or someone else has it now.")
    quota_check(task.round, standings_of(task.round, labeler))
    lease = _lease(Found(task, None if own is None else own.pk), labeler)
    if lease is None:
        raise StateConflict("You are handing in that task in another window.")
    return lease


def shown_order_draw(*, task: Task, labeler: User) -> list[int]:
    """Sample ids in an order that depends on the task and the labeler alone."""
    if task.kind == Task.Kind.DEMONSTRATION:
        return []
    ids = list(Sample.objects.filter(task=task).order_by("index").values_list("pk", flat=True))
    return shown_shuffle(task_id=task.pk, labeler_id=labeler.pk, items=ids)


def shown_shuffle(*, task_id: int, labeler_id: int, items: list[int]) -> list[int]:
    """The order in which this labeler sees a task's answers, given in the order of their index."""
    shuffled = list(items)
    random.Random(f"shown order of {task_id} for {labeler_id}").shuffle(shuffled)
    return shuffled


def _expect_token(assignment: Assignment, token: UUID | None) -> None:
    """A page that was opened under an earlier lease must not write over a later one's draft."""
    if token is not None and token != assignment.token:
        raise StateConflict("You have taken this task up again in another window; reload the page.")


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
            raise LeaseExpired("Your time on this task ran out and others have answered it since.")
    elif assignment.state != Assignment.State.LEASED:
        raise StateConflict("This task is no longer in work.")
    assignment.state = Assignment.State.LEASED
    assignment.lease_until = _lease_end()
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
        raise BadInput("This draft is too long to be kept.", fields={"draft": "Too long."})
    return draft


def _expect_own_window(kept: object, sent: object, over: str | None) -> None:
    """Two windows of one task must not write over each other unseen."""
    if not isinstance(kept, str) or not isinstance(sent, str) or kept == over:
        return
    if kept.rpartition(":")[0] != sent.rpartition(":")[0]:
        raise StateConflict(
            "You went on with this task in another window; reload this one to go on from there."
        )


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
    has written since the one that this page began with, whose stamp is ``over``.
    """
    draft_checked(draft)
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    _expect_token(assignment, token)
    if not assignment.writable:
        raise StateConflict("This task was already handed in; its draft is closed.")
    _expect_own_window(assignment.draft.get("stamp"), draft.get("stamp"), over)
    assignment.draft = draft
    assignment.draft_saved_at = timezone.now()
    assignment.active_ms = active_ms_bounded(assignment, active_ms)
    assignment.idle_ms = idle_ms_bounded(assignment, idle_ms)
    fields = ["draft", "draft_saved_at", "active_ms", "idle_ms"]
    if assignment.state == Assignment.State.LEASED:
        assignment.lease_until = _lease_end()
        fields.append("lease_until")
    assignment.save(update_fields=fields)
    return assignment


@transaction.atomic
def assignment_skip(*, assignment_id: UUID, labeler: User, reason: str) -> Assignment:
    """Give the task to others, with a reason; it does not come back to this labeler."""
    reason = reason.strip()
    if not reason:
        raise BadInput("Say in a few words why you skip it.", fields={"reason": "Missing."})
    if len(reason) > 200:
        raise BadInput("Keep the reason under 200 characters.", fields={"reason": "Too long."})
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    if assignment.state == Assignment.State.SKIPPED:
        return assignment
    if assignment.state not in (Assignment.State.LEASED, Assignment.State.LAPSED):
        raise StateConflict("This task was already handed in.")
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
