"""A labeler's own labels: what can still be taken back, and what was handed in before."""

from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any
from uuid import UUID

from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce, Left, Now
from django.utils import timezone

from labelapp.models import (
    LETTERS,
    Assignment,
    Demonstration,
    Project,
    Prompt,
    PromptKind,
    Ranking,
    RankingPlace,
    Round,
    Task,
    UseCase,
    User,
    Vote,
)
from labelapp.models.versions import LabelQuerySet


@dataclass(frozen=True)
class Undo:
    """A submit that can be taken back for some more seconds."""

    assignment_id: UUID
    seconds: int
    correction: bool
    reveals: bool
    """Once it counts, its labeler sees who wrote which."""


def undo_open(*, project: Project, labeler: User) -> Undo | None:
    """This labeler's last submit, while it can be taken back."""
    last = (
        Assignment.objects.filter(
            project=project,
            labeler=labeler,
            state__in=Assignment.HANDED_IN,
            undo_until__gt=Now(),
        )
        .select_related("task__round")
        .order_by("-undo_until")
        .first()
    )
    if last is None or last.undo_until is None:
        return None
    left = (last.undo_until - timezone.now()).total_seconds()
    return Undo(
        assignment_id=last.pk,
        seconds=max(ceil(left), 1),
        correction=last.settles_at != last.undo_until,
        reveals=locked(last),
    )


def labels_of(assignment: Assignment) -> "LabelQuerySet[Any]":
    """All versions of what was handed in under the assignment, whichever its kind."""
    found: LabelQuerySet[Any] = {
        Task.Kind.DEMONSTRATION: assignment.written,
        Task.Kind.RANKING: assignment.ranked,
        Task.Kind.PROMPT: assignment.prompts_written,
        Task.Kind.PAIRWISE: assignment.voted,
    }[Task.Kind(assignment.task.kind)].all()
    return found


def label_draft(
    label: Demonstration | Ranking | Vote | Prompt, shown_order: list[int]
) -> dict[str, Any]:
    """What was handed in, as the draft of its page."""
    if isinstance(label, Demonstration):
        return {"text": label.text}
    if isinstance(label, Vote):
        return {"choice": label.choice}
    if isinstance(label, Prompt):
        few_shot = label.kind == PromptKind.FEW_SHOT
        return {"use_case": label.use_case, **(label.parts if few_shot else {"text": label.text})}
    letter_of = dict(zip(shown_order, LETTERS, strict=False))
    places = list(label.places.all())
    rated = {letter_of[p.sample_id]: p.rating for p in places if hasattr(p, "rating")}
    return {
        "groups": letter_groups(places, shown_order),
        "not_judged": [letter_of[p.sample_id] for p in places if p.group is None],
        "all_bad": label.all_bad,
        "strength": label.strength,
        "ratings": {k: said.overall for k, said in rated.items() if said.overall is not None},
        "flags": {k: said.flags for k, said in rated.items()},
    }


def letter_groups(places: list[RankingPlace], shown_order: list[int]) -> list[list[str]]:
    """The letters of a ranking as its labeler saw them, best group first."""
    letter_of = dict(zip(shown_order, LETTERS, strict=False))
    groups: dict[int, list[str]] = {}
    for place in sorted(places, key=lambda place: place.shown):
        if place.group is not None:
            groups.setdefault(place.group, []).append(letter_of[place.sample_id])
    return [groups[number] for number in sorted(groups)]


# --- what was handed in


def history(*, project: Project, labeler: User, kind: str = "") -> QuerySet[Assignment]:
    """A labeler's handed-in tasks, newest first.

    Each has ``versions``, how many there are of what was handed in, and where a prompt was
    written, its beginning as ``prompt_written``.
    """
    found = Assignment.objects.filter(
        project=project, labeler=labeler, state__in=Assignment.HANDED_IN
    )
    if kind:
        found = found.filter(task__kind=kind)
    newest = [
        Subquery(
            model._default_manager.filter(assignment=OuterRef("pk"))
            .order_by("-version")
            .values("version")[:1]
        )
        for model in (
            *(Ranking, Vote, Prompt),
            Demonstration,  # before a ranking, perhaps an own answer
        )
    ]
    return (
        found.select_related("task__prompt", "task__round")
        .annotate(
            versions=Coalesce(*newest),
            prompt_written=Subquery(
                Prompt.objects.filter(assignment=OuterRef("pk"))
                .order_by("-version")
                .values(start=Left("text", 200))[:1]
            ),
        )
        .order_by("-ended_at", "-pk")
    )


@dataclass(frozen=True)
class Version:
    """One version of what was handed in: a text, groups of letters, best first, or a vote."""

    number: int
    at: datetime
    text: str
    groups: list[list[str]]
    choice: str
    use_case: str = ""  # where a prompt was written


def versions_of(assignment: Assignment) -> list[Version]:
    """All versions of an assignment's label, newest first."""
    labels = labels_of(assignment).order_by("-version")
    if assignment.task.kind == Task.Kind.RANKING:
        labels = labels.prefetch_related("places__rating")
    drafts = ((label, label_draft(label, assignment.shown_order)) for label in labels)
    return [
        Version(
            number=label.version,
            at=label.created_at,
            text=getattr(label, "text", ""),
            groups=draft.get("groups", []),
            choice=draft.get("choice", ""),
            use_case=str(UseCase(draft["use_case"]).label) if "use_case" in draft else "",
        )
        for label, draft in drafts
    ]


def correctable(assignment: Assignment) -> bool:
    """Whether its label may get a next version now."""
    settled = assignment.undo_until is None or assignment.undo_until <= timezone.now()
    round_ = assignment.task.round
    return settled and round_.state == Round.State.OPEN and not locked(assignment)


# --- who wrote which, after a vote


def locked(assignment: Assignment) -> bool:
    """Whether its label stays as it is because its labeler may see who wrote which."""
    return assignment.task.kind == Task.Kind.PAIRWISE and assignment.task.round.reveal


@dataclass(frozen=True)
class Revealed:
    """The versions that wrote the two answers of a pair, as they stood."""

    left: str
    right: str


def revealed(assignment: Assignment) -> Revealed | None:
    """Who wrote which, once the vote counts, where the round shows it; else none."""
    if not locked(assignment):
        return None
    vote = (
        assignment.voted.settled()
        .select_related("left__version", "right__version")
        .order_by("-version")
        .first()
    )
    return None if vote is None else Revealed(str(vote.left.version), str(vote.right.version))
