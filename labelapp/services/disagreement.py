"""Where labelers of one task disagree: its priority in active order, and more labelers for it."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from django.db import transaction
from django.db.models import Case, F, FloatField, Value, When
from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.models import Ranking, RankingPlace, Round, Task


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


def task_distance(task: Task) -> float:
    """How far the rankings of a task, as first handed in and but the surplus ones, are apart in what
    all judged.
    """
    places = RankingPlace.objects.filter(
        ranking__task=task, ranking__surplus=False, ranking__version=1, group__isnull=False
    )
    groups: dict[int, dict[int, int]] = {}
    for ranking, sample, group in places.values_list("ranking_id", "sample_id", "group"):
        if group is not None:  # judged
            groups.setdefault(ranking, {})[sample] = group
    return rankings_distance(list(groups.values()))


def ranking_compared(ranking: Ranking, task: Task) -> None:
    """After a ranking, in its transaction, the task's row locked: priority and overlap follow.

    Once all places are filled and the rankings are further apart than the round allows, one more
    labeler is asked, up to the round's ``extra_overlap``.
    """
    round_ = task.round
    if ranking.surplus or not (round_.order == Round.Order.ACTIVE or round_.extra_overlap):
        return
    task.refresh_from_db(fields=["submitted", "overlap", "extra"])
    if task.submitted < 2:
        return
    distance = task_distance(task)
    changes: dict[str, object] = {}
    if round_.order == Round.Order.ACTIVE:
        changes["priority"] = distance
    full = task.submitted >= task.overlap and task.extra < round_.extra_overlap
    if full and distance > round_.disagreement:
        changes |= {"overlap": F("overlap") + 1, "extra": F("extra") + 1}
    if changes:
        Task.objects.filter(pk=task.pk).update(**changes)


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
