"""Where labelers of one task disagree: its priority in active order, and more labelers for it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import combinations

from django.db import transaction
from django.db.models import Case, F, FloatField, Value, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.models import Ranking, RankingPlace, Round, Task
from labelapp.services.settling import undos_wait

COMPARED = 500
"""Tasks that one sweep compares."""


def kendall_distance(one: Mapping[int, int], other: Mapping[int, int]) -> float:
    """Share of pairs that two rankings (sample: group, 0 best) order differently; a tie is half."""
    pairs = list(combinations(sorted(set(one) & set(other)), 2))
    if not pairs:
        return 0.0
    apart = 0.0
    for a, b in pairs:
        signs = [_sign(groups[a] - groups[b]) for groups in (one, other)]
        apart += abs(signs[0] - signs[1]) / 2
    return apart / len(pairs)


def _sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)


def rankings_distance(rankings: Sequence[Mapping[int, int]]) -> float:
    """Mean Kendall distance over all pairs of rankings; 0 where there are fewer than two."""
    pairs = list(combinations(rankings, 2))
    return sum(kendall_distance(*pair) for pair in pairs) / len(pairs) if pairs else 0.0


def task_distance(task: Task, *, by: datetime) -> float:
    """How far the rankings of a task, as first handed in and but the surplus ones, are apart in what
    all judged. Those that settled ``by`` then count.
    """
    places = RankingPlace.objects.filter(
        ranking__task=task,
        ranking__surplus=False,
        ranking__version=1,
        ranking__settles_at__lte=by,
        group__isnull=False,
    )
    groups: dict[int, dict[int, int]] = {}
    for ranking, sample, group in places.values_list("ranking_id", "sample_id", "group"):
        if group is not None:  # judged
            groups.setdefault(ranking, {})[sample] = group
    return rankings_distance(list(groups.values()))


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
    """Once all places are filled and the settled rankings are further apart than the round allows,
    one more labeler is asked, up to the round's ``extra_overlap``. The task's row is locked.
    """
    round_ = task.round
    task.refresh_from_db(fields=["state", "submitted", "overlap", "extra"])
    changes: dict[str, object] = {"compare_at": None} if task.compare_at else {}
    if task.submitted >= 2:
        distance = task_distance(task, by=by)
        if round_.order == Round.Order.ACTIVE:
            changes["priority"] = distance
        full = task.submitted >= task.overlap and task.state == Task.State.OPEN
        more = full and task.extra < round_.extra_overlap
        if more and distance > round_.disagreement:
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
    """Write priorities by task id, as an ensemble's spread of scores; returns how many it wrote."""
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
