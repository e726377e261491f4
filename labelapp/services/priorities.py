"""After reward models have scored a round's answers: the priorities of its ranking tasks."""

from collections.abc import Iterator
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from labelapp.models import Round, Run, Task
from labelapp.services.disagreement import judges_of, task_priorities_set
from labelapp.services.settling import undos_wait

TOGETHER = 200
"""Tasks whose rows one transaction holds; claims pass over them meanwhile."""


def priorities_update(*, run: Run) -> Iterator[int]:
    """Set the priority of each ranking task of the run's round, some at a time; after each time, how
    many changed. Safe to run twice.
    """
    done = 0
    while True:
        by = timezone.now()
        undos_wait(run.project_id)  # those that began before what is read has settled
        last, changed = _next_few(run, after=done, by=by)
        if not last:
            return
        done = last
        yield changed


@transaction.atomic
def _next_few(run: Run, *, after: int, by: datetime) -> tuple[int, int]:
    """The last of the tasks that were looked at, 0 where none was left, and how many changed."""
    assert run.round_id is not None  # a constraint: scores are of a round
    # The round's row before its tasks', as closing does.
    round_ = Round.objects.select_for_update(no_key=True).get(pk=run.round_id)
    tasks = round_.tasks.filter(kind=Task.Kind.RANKING, pk__gt=after)
    tasks = tasks.exclude(state=Task.State.CLOSED).select_for_update(no_key=True)
    was = dict(tasks.order_by("pk").values_list("pk", "priority")[:TOGETHER])
    if not was:
        return 0, 0
    priorities = {pk: judges.priority for pk, judges in judges_of(was, by=by).items()}
    changed = {pk: value for pk, value in priorities.items() if value != was[pk]}
    return max(was), task_priorities_set(round=round_, priorities=changed)
