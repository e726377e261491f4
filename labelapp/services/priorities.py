"""After reward models have scored a round's answers: the priorities of its ranking tasks."""

from collections.abc import Iterator, Sequence

from django.db import transaction
from django.utils import timezone

from labelapp.models import Run, Task
from labelapp.services.disagreement import judges_of, task_priorities_set
from labelapp.services.settling import undos_wait

TOGETHER = 200
"""Tasks whose rows one transaction holds; claims pass over them meanwhile."""


def priorities_update(*, run: Run) -> Iterator[int]:
    """Set the priority of each ranking task of the run's round, some at a time; after each time, how
    many changed. Safe to run twice.

    Tasks that others hold come last, one by one: who holds many waits for none, so there is no ring.
    """
    assert run.round is not None  # a constraint: scores are of a round
    tasks = run.round.tasks.filter(kind=Task.Kind.RANKING).exclude(state=Task.State.CLOSED)
    ids, after, held = tasks.order_by("pk").values_list("pk", flat=True), 0, set[int]()
    while some := list(ids.filter(pk__gt=after)[:TOGETHER]):
        after = some[-1]
        seen, changed = _set(run, some, wait=False)
        held |= set(some) - seen
        yield changed
    for task in sorted(held):
        yield _set(run, [task], wait=True)[1]


def _set(run: Run, ids: Sequence[int], *, wait: bool) -> tuple[set[int], int]:
    """Which of these tasks nobody held, and how many of their priorities changed."""
    assert run.round is not None
    by = timezone.now()
    undos_wait(run.project_id)  # those that began before what is read has settled
    with transaction.atomic():
        free = Task.objects.select_for_update(no_key=True, skip_locked=not wait)
        was = dict(free.filter(pk__in=ids).order_by("pk").values_list("pk", "priority"))
        priorities = {pk: judges.priority for pk, judges in judges_of(was, by=by).items()}
        changed = {pk: value for pk, value in priorities.items() if value != was[pk]}
        return set(was), task_priorities_set(round=run.round, priorities=changed)
