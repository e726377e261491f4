"""Which task comes next. Every look is bounded: it costs the same however many tasks there are.

Nearly finished tasks come first, a bounded look at them; then the round's order. A labeler's
``Standing.reached`` says where in the order to go on, so that nobody passes over what they have
done again; at the end of the order comes what was freed before that place meanwhile.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from uuid import UUID

from django.db.models import Exists, F, OuterRef, QuerySet, Subquery

from labelapp.models import Assignment, Project, Round, Standing, Task, User
from labelapp.selectors.queue import bearable

WINDOW = 50  # nearly finished tasks, or those of highest priority, that one claim looks at
STRIDE = 16  # how far a labeler goes before the place is written down again


@dataclass(frozen=True)
class Found:
    """A task with a free place, its row locked, and the labeler's lapsed assignment of it, if any."""

    task: Task
    lapsed: UUID | None


@dataclass(frozen=True)
class Turn:
    """One labeler's turn in a round, for one kind of task."""

    round: Round
    labeler: User
    kind: str
    reached: int


def open_round(project: Project) -> tuple[Round, list[str]] | None:
    """The project's open round, its instructions loaded, and the kinds with open tasks."""
    tasks = Task.objects.filter(round=OuterRef("pk"), claimable=True).order_by("position")
    # the first of the order, not EXISTS: for that the planner may read through the whole table
    has = {
        f"has_{kind}": Subquery(tasks.filter(kind=kind).values("pk")[:1])
        for kind in Task.Kind.values
    }
    rounds = project.rounds.filter(state=Round.State.OPEN).select_related("instructions")
    round_ = rounds.annotate(**has).first()
    if round_ is None:
        return None
    return round_, [kind for kind in Task.Kind.values if getattr(round_, f"has_{kind}")]


def standings_of(round_: Round, labeler: User) -> dict[str, Standing]:
    """Where the labeler stands in the round, by kind of task."""
    return {each.kind: each for each in Standing.objects.filter(round=round_, labeler=labeler)}


def turns(
    round_: Round, labeler: User, kinds: Iterable[str], standings: Mapping[str, Standing]
) -> list[Turn]:
    """The kinds to look through: first the one furthest behind its weight; weight 0 comes last."""

    def due(kind: str) -> float:
        weight = round_.kind_weights.get(kind, 1)
        done = standings[kind].handed_in if kind in standings else 0
        return done / weight if weight else inf

    return [
        Turn(round_, labeler, kind, standings[kind].reached if kind in standings else 0)
        for kind in sorted(kinds, key=due)
    ]


def task_next(turn: Turn) -> Found | None:
    """The next task with a free place; None when nothing is left.

    A task that another claim holds is passed over; only when nothing else is left do we wait.
    """
    found = None
    if turn.round.overlap + turn.round.extra_overlap > 1:
        found = _first(_nearly_done(turn))
    if found is None and turn.round.order == Round.Order.ACTIVE:
        found = _first(_active(turn))
    return found or _in_order(turn)


def _first(tasks: QuerySet[Task], *, wait: bool = False) -> Found | None:
    task = tasks.select_for_update(of=("self",), skip_locked=not wait).first()
    return None if task is None else Found(task, getattr(task, "lapsed"))  # noqa: B009


def _unseen(tasks: QuerySet[Task], labeler: User) -> QuerySet[Task]:
    """Those that are not, and were not, this labeler's; a lapsed one may come back."""
    mine = Assignment.objects.filter(task=OuterRef("pk"), labeler=labeler)
    return tasks.filter(~Exists(mine.exclude(state=Assignment.State.LAPSED)))


def _open(turn: Turn) -> QuerySet[Task]:
    """Tasks with a free place for this labeler; ``lapsed`` is their earlier assignment, if any."""
    mine = Assignment.objects.filter(task=OuterRef("pk"), labeler=turn.labeler)
    tasks = Task.objects.filter(
        bearable(turn.labeler), round=turn.round, kind=turn.kind, claimable=True
    )
    return (
        _unseen(tasks, turn.labeler)
        .select_related("prompt")
        .annotate(lapsed=Subquery(mine.order_by().values("pk")[:1]))
    )


def _nearly_done(turn: Turn) -> QuerySet[Task]:
    """Of the first nearly finished ones."""
    few = Task.objects.filter(round=turn.round, kind=turn.kind, nearly_done=True)
    window = few.order_by("position").values("pk")[:WINDOW]
    return _open(turn).filter(pk__in=window, nearly_done=True).order_by("position")


def _active(turn: Turn) -> QuerySet[Task]:
    """In active order: the highest priority, or, for a share of the claims, any task."""
    tasks = Task.objects.filter(round=turn.round, kind=turn.kind, claimable=True)
    if random.random() < turn.round.random_share:
        last = tasks.order_by("-position").values_list("position", flat=True).first()
        start = random.randint(0, last or 0)
        return _open(turn).filter(position__gte=start).order_by("position")
    best = tasks.filter(priority__gt=0).order_by(F("priority").desc(), "position")
    return (
        _open(turn)
        .filter(pk__in=best.values("pk")[:WINDOW], priority__gt=0)
        .order_by(F("priority").desc(), "position")
    )


def _in_order(turn: Turn) -> Found | None:
    """From the place that was reached on, then from the start, then the one that others hold."""
    tasks = _open(turn).order_by("position")
    found = _first(tasks.filter(position__gte=turn.reached))
    if found is None and turn.reached:
        found = _first(tasks.filter(position__lt=turn.reached))
    found = found or _first(tasks, wait=True)
    if found is not None and not 0 <= found.task.position - turn.reached < STRIDE:
        standing = Standing(
            round=turn.round, labeler=turn.labeler, kind=turn.kind, reached=found.task.position
        )
        Standing.objects.bulk_create(
            [standing],
            update_conflicts=True,
            unique_fields=["round", "labeler", "kind"],
            update_fields=["reached"],
        )
    return found
