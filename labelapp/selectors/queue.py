"""What a labeler may see and do next."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Exists, F, OuterRef

from labelapp.errors import NotFound
from labelapp.models import (
    LETTERS,
    RATING_FIELDS,
    Assignment,
    Project,
    Round,
    Sample,
    Task,
    User,
)


@dataclass(frozen=True)
class Answer:
    """One completion as a labeler sees it: a letter and a text, never who wrote it."""

    letter: str
    text: str
    words: int


@dataclass(frozen=True)
class AssignmentView:
    """All that a task page shows; nothing in it names a model version or a sample."""

    id: UUID
    kind: str
    state: str
    lease_until: datetime
    prompt_kind: str
    use_case: str
    prompt_text: str
    parts: dict[str, Any]
    answers: list[Answer]
    draft: dict[str, Any]
    draft_saved_at: datetime | None
    active_ms: int
    instructions_number: int
    instructions_body: str
    round_number: int
    rating_fields: list[str]
    ratings_required: bool
    strength_asked: bool


def assignment_get(*, labeler: User, project: Project, assignment_id: UUID) -> Assignment:
    """One of this labeler's own assignments in this project; NotFound for any other."""
    assignment = (
        Assignment.objects.select_related("task__prompt", "task__round__instructions")
        .filter(pk=assignment_id, labeler=labeler, project=project)
        .first()
    )
    if assignment is None:
        raise NotFound("There is no such task among yours.")
    return assignment


def assignment_view(assignment: Assignment) -> AssignmentView:
    """The page's content, answers in the order that was drawn for this labeler."""
    task, prompt = assignment.task, assignment.task.prompt
    texts = dict(Sample.objects.filter(pk__in=assignment.shown_order).values_list("pk", "text"))
    answers = [
        Answer(letter, texts[pk], len(texts[pk].split()))
        for letter, pk in zip(LETTERS, assignment.shown_order, strict=False)
    ]
    return AssignmentView(
        id=assignment.pk,
        kind=task.kind,
        state=assignment.state,
        lease_until=assignment.lease_until,
        prompt_kind=prompt.kind,
        use_case=prompt.use_case,
        prompt_text=prompt.text,
        parts=prompt.parts,
        answers=answers,
        draft=assignment.draft,
        draft_saved_at=assignment.draft_saved_at,
        active_ms=assignment.active_ms,
        instructions_number=task.round.instructions.number,
        instructions_body=task.round.instructions.body,
        round_number=task.round.number,
        rating_fields=[name for name in RATING_FIELDS if name in task.round.rating_fields],
        ratings_required=task.round.ratings_required,
        strength_asked=task.round.strength_asked,
    )


def in_hand(*, project: Project, labeler: User) -> Assignment | None:
    """The task this labeler has in work."""
    return (
        project.assignments.filter(labeler=labeler, state=Assignment.State.LEASED)
        .select_related("task__prompt")
        .order_by("claimed_at")
        .first()
    )


def queue_counts(*, project: Project, labeler: User) -> dict[str, int]:
    """Open tasks of each kind that this labeler could still get."""
    seen = Assignment.objects.filter(task=OuterRef("pk"), labeler=labeler).exclude(
        state=Assignment.State.LAPSED
    )
    counts = (
        Task.objects.filter(
            project=project,
            round__state=Round.State.OPEN,
            state=Task.State.OPEN,
            taken__lt=F("overlap"),
        )
        .exclude(Exists(seen))
        .values_list("kind")
        .annotate(Count("id"))
        .order_by()
    )
    return dict.fromkeys(Task.Kind.values, 0) | dict(counts)
