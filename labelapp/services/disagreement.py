"""Where the judges of a task disagree: its priority in active order, and more labelers for it.

The judges of a task are its labelers, by their rankings that have settled, and the reward models
that scored its answers, by the order that the scores make. For the priority all of them count;
whether one more labeler is asked is for the labelers' rankings alone.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

from django.db import transaction
from django.db.models import Case, F, FloatField, Value, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.models import Ranking, RankingPlace, Round, SampleScore, Task
from labelapp.services.settling import undos_wait

COMPARED = 500
"""Tasks that one sweep compares."""

Order = Mapping[int, float]
"""Of each sample that was judged a number, lower where it is better: its rank group, or minus a score."""


def kendall_distance(one: Order, other: Order) -> float:
    """Share of pairs that two judges order differently; a tie of one of them is half."""
    pairs = list(combinations(sorted(set(one) & set(other)), 2))
    if not pairs:
        return 0.0
    apart = 0.0
    for a, b in pairs:
        signs = [_sign(groups[a] - groups[b]) for groups in (one, other)]
        apart += abs(signs[0] - signs[1]) / 2
    return apart / len(pairs)


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def rankings_distance(rankings: Sequence[Order]) -> float:
    """Mean Kendall distance over all pairs of judges; 0 where there are fewer than two."""
    pairs = list(combinations(rankings, 2))
    return sum(kendall_distance(*pair) for pair in pairs) / len(pairs) if pairs else 0.0


class Judges(NamedTuple):
    """How each judge of a task orders its answers."""

    labelers: Sequence[Order]
    reward_models: Sequence[Order]

    @property
    def priority(self) -> float:
        """How far all of them are apart."""
        return rankings_distance([*self.reward_models, *self.labelers])


def judges_of(
    tasks: Collection[int], *, by: datetime, reward_models: bool = True
) -> dict[int, Judges]:
    """The judges of each task, in two queries, in one without reward models.

    Of labelers the rankings as first handed in, but the surplus ones, that settled ``by`` then.
    """
    places = RankingPlace.objects.filter(
        ranking__task__in=tasks,
        ranking__surplus=False,
        ranking__version=1,
        ranking__settles_at__lte=by,
        group__isnull=False,
    ).values_list("ranking__task", "ranking_id", "sample_id", "group")
    scores = SampleScore.objects.filter(sample__task__in=tasks).order_by("version")
    scored = scores.values_list("sample__task", "version_id", "sample_id", "score")
    labelers, models = _orders(tasks), _orders(tasks)
    for task, ranking, sample, group in places:
        if group is not None:  # judged
            labelers[task][ranking][sample] = group
    for task, version, sample, score in scored if reward_models else ():
        assert task is not None  # what was asked for
        models[task][version][sample] = -score
    return {
        task: Judges(list(labelers[task].values()), list(models[task].values())) for task in tasks
    }


def _orders(tasks: Collection[int]) -> dict[int, dict[int, dict[int, float]]]:
    """By task and judge an order still to be filled."""
    return {task: defaultdict(dict) for task in tasks}


def ranking_compared(ranking: Ranking, task: Task) -> None:
    """After a ranking, in its transaction, the task's row locked: priority and overlap follow.

    They follow at once where the ranking counts at once; else ``tasks_compare`` sees to it when it
    has settled, so that one taken back moves nothing.
    """
    round_ = task.round
    if ranking.surplus or not (round_.order == Round.Order.ACTIVE or round_.extra_overlap):
        return
    if ranking.settles_at > timezone.now():
        task.compare_at = ranking.settles_at
        task.save(update_fields=["compare_at"])
    else:
        _compare(task, by=ranking.settles_at)


def _compare(task: Task, *, by: datetime) -> None:
    """In active order, the task's priority. Once all places are filled and the settled rankings are
    further apart than the round allows, one more labeler is asked, up to the round's
    ``extra_overlap``. The task's row is locked.
    """
    round_ = task.round
    task.refresh_from_db(fields=["state", "submitted", "overlap", "extra"])
    changes: dict[str, object] = {"compare_at": None} if task.compare_at else {}
    active = round_.order == Round.Order.ACTIVE
    if active or task.submitted >= 2:
        judges = judges_of([task.pk], by=by, reward_models=active)[task.pk]
        if active:
            changes["priority"] = judges.priority
        full = task.submitted >= task.overlap and task.state == Task.State.OPEN
        more = full and task.extra < round_.extra_overlap
        if more and rankings_distance(judges.labelers) > round_.disagreement:
            changes |= {"overlap": F("overlap") + 1, "extra": F("extra") + 1}
    if changes:
        Task.objects.filter(pk=task.pk).update(**changes)


def tasks_compare() -> int:
    """Compare the rankings of tasks whose last one has settled; how many tasks. Safe to run twice."""
    due = Task.objects.filter(compare_at__lte=Now()).order_by("compare_at")
    found = list(due.values_list("pk", "project_id", "compare_at")[:COMPARED])
    for project_id in {each[1] for each in found}:
        undos_wait(project_id)  # those that began before it settled
    for pk, _project, compare_at in found:
        with transaction.atomic():
            task = (
                Task.objects.select_for_update(of=("self",))
                .select_related("round")
                .filter(pk=pk, compare_at=compare_at)
                .first()
            )
            if task is not None and task.compare_at:  # no further ranking came meanwhile
                _compare(task, by=task.compare_at)
    return len(found)


@transaction.atomic
def task_priorities_set(*, round: Round, priorities: Mapping[int, float]) -> int:
    """Write priorities by task id; returns how many it wrote."""
    if any(not 0 <= value < float("inf") for value in priorities.values()):
        raise BadInput(
            _("A priority is a number from 0 on."), fields={"priorities": _("Out of range.")}
        )
    written = 0
    ids = sorted(priorities)
    for start in range(0, len(ids), 1000):
        part = ids[start : start + 1000]
        value = Case(
            *(When(pk=each, then=Value(priorities[each])) for each in part),
            output_field=FloatField(),
        )
        written += Task.objects.filter(round=round, pk__in=part).update(priority=value)
    return written
