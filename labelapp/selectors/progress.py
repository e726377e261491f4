"""How far a round is, and who did what."""

from collections import Counter
from dataclasses import dataclass

from django.db.models import Count, F, Q, Sum
from django.utils import timezone

from labelapp.models import (
    Assignment,
    Demonstration,
    Project,
    Prompt,
    Ranking,
    Round,
    Standing,
    Task,
    User,
    Vote,
)


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
    """One entry per kind of task, in four queries, one more each for prompts and for pairs.

    Labels not settled are still in work.
    """
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
        .filter(assignment__task__round=round_, assignment__task__kind=Task.Kind.DEMONSTRATION)
        .aggregate(all=Count("id"), simulated=simulated),
        Task.Kind.RANKING: Ranking.objects.current()
        .filter(task__round=round_)
        .aggregate(all=Count("id"), simulated=simulated),
    }
    if Task.Kind.PAIRWISE in counts:
        labels[Task.Kind.PAIRWISE] = (
            Vote.objects.current()
            .filter(task__round=round_)
            .aggregate(all=Count("id"), simulated=simulated)
        )
    if Task.Kind.PROMPT in counts:
        simulated = Count("id", filter=Q(assignment__labeler__simulated=True))
        labels[Task.Kind.PROMPT] = (
            Prompt.objects.current()
            .filter(assignment__task__round=round_)
            .aggregate(all=Count("id"), simulated=simulated)
        )
    return [
        KindProgress(
            kind=kind.value,
            label=str(kind.label),
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
    prompts: int
    votes: int
    round_number: int | None
    in_round: int


def labeler_progress(*, project: Project, labeler: User) -> LabelerProgress:
    """Counts for the labeler's own page; they cost the same however much was done."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    round_ = project.rounds.filter(state=Round.State.OPEN).first()
    mine = Assignment.objects.filter(project=project, labeler=labeler)
    today = mine.settled().filter(ended_at__gte=midnight).count()
    unsettled = Counter(mine.unsettled().order_by().values_list("task__kind", flat=True))
    kinds = Task.Kind
    counts = Standing.objects.filter(round__project=project, labeler=labeler).aggregate(
        demonstrations=Sum("handed_in", filter=Q(kind=kinds.DEMONSTRATION), default=0),
        rankings=Sum("handed_in", filter=Q(kind=kinds.RANKING), default=0),
        prompts=Sum("handed_in", filter=Q(kind=kinds.PROMPT), default=0),
        votes=Sum("handed_in", filter=Q(kind=kinds.PAIRWISE), default=0),
        in_round=Sum("handed_in", filter=Q(round=round_), default=0),
    )
    return LabelerProgress(
        today=today,
        demonstrations=counts["demonstrations"] - unsettled[kinds.DEMONSTRATION],
        rankings=counts["rankings"] - unsettled[kinds.RANKING],
        prompts=counts["prompts"] - unsettled[kinds.PROMPT],
        votes=counts["votes"] - unsettled[kinds.PAIRWISE],
        round_number=round_.number if round_ else None,
        in_round=counts["in_round"] - unsettled.total() if round_ else 0,
    )
