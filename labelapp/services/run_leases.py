"""The worker's side of a run: take it, keep it, end it. Every write asks for the lease token.

A lease runs out RUN_LEASE_SECONDS after its last heartbeat, by the database's clock. From then
on anybody may take the run; until somebody does, its worker may still renew it, so that a
database that was away does not cost a run its process.
"""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from labelapp.models import Run, RunInput
from labelapp.services.runs import run_lock
from labelapp.services.samples import unanswered_tasks_close
from labelapp.services.scores import scoring_queue
from labelapp.services.training_state import training_refresh
from labelapp.services.versions import version_register
from labelapp.trainer_gateway import Outcome

ATTEMPTS = 8
"""After so many workers were lost on one run it fails instead of taking the next one along."""


def _lease_end() -> Any:
    return Now() + timedelta(seconds=settings.RUN_LEASE_SECONDS)


def _waits() -> QuerySet[RunInput]:
    """Inputs that are still to be made."""
    return RunInput.objects.filter(source__isnull=False).exclude(source__state=Run.State.DONE)


def runs_ready() -> list[UUID]:
    """Queued runs whose inputs are all there, oldest first."""
    queued = Run.objects.filter(state=Run.State.QUEUED).exclude(inputs__in=_waits())
    return list(queued.order_by("created_at").values_list("pk", flat=True))


@transaction.atomic
def runs_reclaim() -> list[UUID]:
    """Runs that their worker left behind, to be taken by another; those it happened to too often fail."""
    left = Run.objects.filter(state=Run.State.RUNNING, lease_until__lte=Now())
    for run_id in left.filter(attempt__gte=ATTEMPTS).values_list("pk", flat=True):
        run = run_lock(run_id)
        if run.abandoned and run.attempt >= ATTEMPTS:
            _end(run, Run.State.FAILED, f"Its worker was lost {run.attempt} times. {_HINT}")
    return list(left.order_by("created_at").values_list("pk", flat=True))


_HINT = "See the workers' log (memory, disk), then retry; it goes on from its last checkpoint."


def run_claim(*, run_id: UUID, worker: str) -> UUID | None:
    """Take a ready run; the lease token, or none where there is nothing to do."""
    if _takable(run_id).filter(cancel_requested=True).exists():
        _cancel_left(run_id)
    return _take(run_id, worker)


def _takable(run_id: UUID) -> QuerySet[Run]:
    left = Q(state=Run.State.RUNNING, lease_until__lte=Now())
    return Run.objects.filter(Q(state=Run.State.QUEUED) | left, pk=run_id)


@transaction.atomic
def _cancel_left(run_id: UUID) -> None:
    """The worker was lost before it could do what was asked."""
    run_lock(run_id)
    for run in _takable(run_id).filter(cancel_requested=True):
        _end(run, Run.State.CANCELLED)


@transaction.atomic
def _take(run_id: UUID, worker: str) -> UUID | None:
    run = _takable(run_id).select_for_update(skip_locked=True).first()
    if run is None or run.cancel_requested or _waits().filter(run=run).exists():
        return None
    token = uuid.uuid4()
    Run.objects.filter(pk=run_id).update(
        state=Run.State.RUNNING,
        lease_token=token,
        lease_until=_lease_end(),
        worker=worker,
        attempt=run.attempt + 1,
        started_at=run.started_at or timezone.now(),
        finished_at=None,
        error="",
    )
    return token


@dataclass(frozen=True)
class Beat:
    """What a heartbeat brought back."""

    held: bool
    """False when another worker has taken the run."""
    cancel: bool


def run_heartbeat(
    *, run_id: UUID, token: UUID, step: int, total: int, figures: dict[str, Any]
) -> Beat:
    """Keep the lease and show how far it is."""
    mine = Run.objects.filter(pk=run_id, lease_token=token, state=Run.State.RUNNING)
    held = mine.update(lease_until=_lease_end(), step=step, total=total, figures=figures)
    cancel = bool(held) and mine.filter(cancel_requested=True).exists()
    return Beat(held=bool(held), cancel=cancel)


@transaction.atomic
def run_finish(*, run_id: UUID, token: UUID, outcome: Outcome) -> bool:
    """The run is done: register what it made. False when the lease is another's."""
    run = _held(run_id, token)
    if run is None:
        return False
    run.step = run.total = max(run.total, run.step)
    run.figures = {**run.figures, **outcome.metrics}
    version_register(run=run, outcome=outcome)
    if run.stage == Run.Stage.SAMPLE:
        unanswered_tasks_close(run=run)
        scoring_queue(run=run)
    _end(run, Run.State.DONE)
    return True


@transaction.atomic
def run_fail(*, run_id: UUID, token: UUID, error: str) -> bool:
    """The run failed; ``error`` is a sentence for the page."""
    return _end_held(run_id, token, Run.State.FAILED, error or "It failed without a word.")


@transaction.atomic
def run_cancelled(*, run_id: UUID, token: UUID) -> bool:
    """The run has stopped because somebody asked for it."""
    return _end_held(run_id, token, Run.State.CANCELLED)


@transaction.atomic
def run_release(*, run_id: UUID, token: UUID) -> bool:
    """Give the run back to the queue; another worker goes on from its checkpoint."""
    run = _held(run_id, token)
    if run is None:
        return False
    run.attempt = max(run.attempt - 1, 0)  # a worker that leaves in order is not a lost one
    _end(run, Run.State.QUEUED)
    return True


def _held(run_id: UUID, token: UUID) -> Run | None:
    run = run_lock(run_id)
    return run if run.state == Run.State.RUNNING and run.lease_token == token else None


def _end_held(run_id: UUID, token: UUID, state: str, error: str = "") -> bool:
    run = _held(run_id, token)
    if run is None:
        return False
    _end(run, state, error)
    return True


def _end(run: Run, state: str, error: str = "") -> None:
    run.state = state
    run.error = error
    run.lease_token = None
    run.lease_until = None
    run.worker = ""
    run.finished_at = None if state == Run.State.QUEUED else timezone.now()
    run.save()
    training_refresh(training_id=run.training_id)
