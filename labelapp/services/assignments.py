"""Claiming, keeping and giving back work. A claim is one short transaction."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef
from django.utils import timezone

from labelapp.errors import BadInput, LeaseExpired, NotFound, StateConflict
from labelapp.models import Assignment, Membership, Project, Round, Sample, Task, User

DRAFT_BYTES = 200_000


def _lease_end() -> Any:
    return timezone.now() + timedelta(seconds=settings.LEASE_SECONDS)


def assignment_lock(*, assignment_id: UUID, labeler: User) -> Assignment:
    """The labeler's own assignment, its row locked. Raises NotFound for anyone else's."""
    assignment = (
        Assignment.objects.select_for_update(of=("self",))
        .select_related("task", "labeler")
        .filter(pk=assignment_id, labeler=labeler)
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
    Of the kinds, the one this labeler did least of in the round comes first.
    """
    member = Membership.objects.select_for_update().filter(project=project, user=labeler).first()
    if member is None:
        raise NotFound("You are not a member of this project.")
    own = project.assignments.filter(labeler=labeler, state=Assignment.State.LEASED)
    in_hand = own.order_by("claimed_at").first()
    if in_hand is not None:
        Assignment.objects.filter(pk=in_hand.pk).update(lease_until=_lease_end())
        in_hand.refresh_from_db()
        return in_hand
    round_ = project.rounds.filter(state=Round.State.OPEN).first()
    if round_ is None:
        return None
    for each in _kinds_in_turn(round_, labeler, kind):
        # a task that another claim holds is passed over; only when nothing else is left do we wait
        task = _next_task(round_, labeler, each) or _next_task(round_, labeler, each, wait=True)
        if task is not None:
            return _lease(task, labeler)
    return None


def _kinds_in_turn(round_: Round, labeler: User, kind: str | None) -> list[str]:
    if kind is not None:
        if kind not in Task.Kind.values:
            raise BadInput(f"There are no tasks of kind {kind!r}.", fields={"kind": "Unknown."})
        return [kind]
    done = dict(
        Assignment.objects.filter(
            labeler=labeler, task__round=round_, state=Assignment.State.SUBMITTED
        )
        .values_list("task__kind")
        .annotate(Count("id"))
    )
    return sorted(Task.Kind.values, key=lambda each: done.get(each, 0))


def _next_task(round_: Round, labeler: User, kind: str, *, wait: bool = False) -> Task | None:
    seen = Assignment.objects.filter(task=OuterRef("pk"), labeler=labeler).exclude(
        state=Assignment.State.LAPSED
    )
    return (
        Task.objects.select_for_update(skip_locked=not wait)
        .filter(round=round_, kind=kind, state=Task.State.OPEN, taken__lt=F("overlap"))
        .exclude(Exists(seen))
        .order_by("position")
        .first()
    )


def _lease(task: Task, labeler: User) -> Assignment:
    """A new lease, or this labeler's lapsed one again with its draft and shown order."""
    assignment, created = Assignment.objects.get_or_create(
        task=task,
        labeler=labeler,
        defaults={
            "project_id": task.project_id,
            "lease_until": _lease_end(),
            "shown_order": shown_order_draw(task=task, labeler=labeler),
        },
    )
    if not created:
        assignment.state = Assignment.State.LEASED
        assignment.lease_until = _lease_end()
        assignment.save(update_fields=["state", "lease_until"])
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
    return _lease(task, labeler)


def shown_order_draw(*, task: Task, labeler: User) -> list[int]:
    """Sample ids in an order that depends on the task and the labeler alone."""
    ids = list(Sample.objects.filter(task=task).order_by("index").values_list("pk", flat=True))
    return shown_shuffle(task_id=task.pk, labeler_id=labeler.pk, items=ids)


def shown_shuffle(*, task_id: int, labeler_id: int, items: list[int]) -> list[int]:
    """The order in which this labeler sees a task's answers, given in the order of their index."""
    shuffled = list(items)
    random.Random(f"shown order of {task_id} for {labeler_id}").shuffle(shuffled)
    return shuffled


@transaction.atomic
def assignment_heartbeat(*, assignment_id: UUID, labeler: User) -> Assignment:
    """Hold the task a while longer. A lapsed one is taken up again if its place is free."""
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
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


@transaction.atomic
def assignment_draft_save(
    *, assignment_id: UUID, labeler: User, draft: dict[str, Any], active_ms: int | None = None
) -> Assignment:
    """Keep what was typed or placed so far. Kept for lapsed assignments too: nothing is lost."""
    if len(str(draft)) > DRAFT_BYTES:
        raise BadInput("This draft is too long to be kept.", fields={"draft": "Too long."})
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    if assignment.state not in (Assignment.State.LEASED, Assignment.State.LAPSED):
        raise StateConflict("This task was already handed in; its draft is closed.")
    assignment.draft = draft
    assignment.draft_saved_at = timezone.now()
    assignment.active_ms = active_ms_bounded(assignment, active_ms)
    fields = ["draft", "draft_saved_at", "active_ms"]
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
