"""How far a round is, and who did what."""

from dataclasses import dataclass

from django.db.models import Count, F, Q, Sum
from django.utils import timezone

from labelapp.models import Assignment, Demonstration, Project, Ranking, Round, Task, User


@dataclass(frozen=True)
class KindProgress:
    """Counts of one kind of task in a round; ``labels`` includes ``simulated_labels``."""

    kind: str
    label: str
    tasks: int
    waiting: int  # for answers of the policy
    open: int  # with a free place
    in_work: int  # live leases
    submitted: int  # of ``wanted`` places
    wanted: int
    labels: int
    simulated_labels: int


def round_progress(round_: Round) -> list[KindProgress]:
    """One entry per kind of task, in four queries. Labels not settled are still in work."""
    counts = {
        row["kind"]: row
        for row in Task.objects.filter(round=round_)
        .values("kind")
        .annotate(
            tasks=Count("id"),
            waiting=Count("id", filter=Q(state=Task.State.WAITING)),
            open_=Count("id", filter=Q(state=Task.State.OPEN, taken__lt=F("overlap"))),
            in_work=Sum(F("taken") - F("submitted")),
            done=Sum("submitted"),
            places=Sum("overlap"),
        )
        .order_by()
    }
    unsettled = dict(
        Assignment.objects.unsettled()
        .filter(task__round=round_)
        .order_by()
        .values_list("task__kind")
        .annotate(Count("id"))
    )
    simulated = Count("id", filter=Q(simulated=True))
    labels = {
        Task.Kind.DEMONSTRATION: Demonstration.objects.current()
        .filter(assignment__task__round=round_)
        .aggregate(all=Count("id"), simulated=simulated),
        Task.Kind.RANKING: Ranking.objects.current()
        .filter(task__round=round_)
        .aggregate(all=Count("id"), simulated=simulated),
    }
    return [
        KindProgress(
            kind=kind.value,
            label=kind.label,
            tasks=row["tasks"],
            waiting=row["waiting"],
            open=row["open_"],
            in_work=(row["in_work"] or 0) + unsettled.get(kind.value, 0),
            submitted=(row["done"] or 0) - unsettled.get(kind.value, 0),
            wanted=row["places"] or 0,
            labels=labels[kind]["all"],
            simulated_labels=labels[kind]["simulated"],
        )
        for kind in Task.Kind
        if (row := counts.get(kind.value)) is not None
    ]


@dataclass(frozen=True)
class LabelerProgress:
    """What one labeler has handed in."""

    today: int
    demonstrations: int
    rankings: int
    round_number: int | None
    in_round: int


def labeler_progress(*, project: Project, labeler: User) -> LabelerProgress:
    """Counts for the labeler's own page."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    round_ = project.rounds.filter(state=Round.State.OPEN).first()
    counts = (
        Assignment.objects.settled()
        .filter(project=project, labeler=labeler)
        .aggregate(
            today=Count("id", filter=Q(ended_at__gte=midnight)),
            demonstrations=Count("id", filter=Q(task__kind=Task.Kind.DEMONSTRATION)),
            rankings=Count("id", filter=Q(task__kind=Task.Kind.RANKING)),
            in_round=Count("id", filter=Q(task__round=round_)),
        )
    )
    return LabelerProgress(
        today=counts["today"],
        demonstrations=counts["demonstrations"],
        rankings=counts["rankings"],
        round_number=round_.number if round_ else None,
        in_round=counts["in_round"] if round_ else 0,
    )
