"""How fast a round's work goes down: labels still wanted, over time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Sum
from django.utils import timezone

from labelapp.models import Demonstration, Prompt, Ranking, Round, Task, Vote

POINTS = 400


def remaining(wanted: int, times: Sequence[float], at: Sequence[float]) -> list[int]:
    """Labels still wanted at each moment of ``at`` when one came in at each of ``times``.

    Both are sorted, in seconds; what came after a moment does not count at it.
    """
    left, done = [], 0
    for moment in at:
        while done < len(times) and times[done] <= moment:
            done += 1
        left.append(max(wanted - done, 0))
    return left


def moments(start: float, end: float, times: Sequence[float], points: int = POINTS) -> list[float]:
    """Where the curve is drawn: each label while they are few, else ``points`` even steps."""
    if end <= start:
        return [start]
    if len(times) + 2 <= points:
        return sorted({start, *(t for t in times if start < t < end), end})
    step = (end - start) / (points - 1)
    return [start + step * i for i in range(points)]


def round_burndown(round_: Round) -> dict[str, Any]:
    """Curves for the chart: ``t`` in seconds since 1970, and labels left per task kind."""
    wanted = dict(
        Task.objects.filter(round=round_).order_by().values_list("kind").annotate(Sum("overlap"))
    )
    done = {
        Task.Kind.DEMONSTRATION: _times(
            Demonstration.objects.settled()
            .filter(
                assignment__task__round=round_,
                assignment__task__kind=Task.Kind.DEMONSTRATION,  # not one written before a ranking
                surplus=False,
                version=1,
            )
            .order_by("created_at")
            .values_list("created_at", flat=True)
        ),
        Task.Kind.RANKING: _times(
            Ranking.objects.settled()
            .filter(task__round=round_, surplus=False, version=1)
            .order_by("created_at")
            .values_list("created_at", flat=True)
        ),
        Task.Kind.PAIRWISE: _times(
            Vote.objects.settled()
            .filter(task__round=round_, surplus=False, version=1)
            .order_by("created_at")
            .values_list("created_at", flat=True)
        ),
        Task.Kind.PROMPT: _times(
            Prompt.objects.settled()
            .filter(assignment__task__round=round_, version=1)
            .order_by("created_at")
            .values_list("created_at", flat=True)
        ),
    }
    end = (round_.closed_at or timezone.now()).timestamp()
    at = moments(round_.created_at.timestamp(), end, sorted(sum(done.values(), [])))
    return {
        "t": at,
        "series": {
            kind.value: remaining(wanted[kind.value], times, at)
            for kind, times in done.items()
            if wanted.get(kind.value)
        },
    }


def _times(found: Any) -> list[float]:
    return [moment.timestamp() for moment in found if isinstance(moment, datetime)]
