"""What a labeler may see and do next."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, Sum
from django.utils.translation import gettext as _

from labelapp.errors import NotFound
from labelapp.models import (
    LETTERS,
    RATING_FIELDS,
    Assignment,
    Project,
    Prompt,
    Round,
    Sample,
    Sensitive,
    Standing,
    Task,
    User,
)
from labelapp.prepared import Given, Prepared

COUNTED = 1000  # a queue longer than that is shown as "1000+"


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
    step: str  # what this page is for: write, rank or vote
    state: str
    correcting: bool
    lease_until: datetime
    prompt_kind: str
    use_case: str
    prompt_text: str
    parts: dict[str, Any]
    sensitive: list[str]
    answers: list[Answer]
    draft: dict[str, Any]
    draft_saved_at: datetime | None
    active_ms: int
    token: UUID
    idle_ms: int
    instructions_number: int
    instructions_body: str
    round_number: int
    token_limit: int  # longest answer of the round's model
    rating_fields: list[str]
    ratings_required: bool
    strength_asked: bool
    reveal: bool  # of a pair: after the vote, who wrote which is shown


_OWN = Prepared(
    lambda: (
        Assignment.objects.select_related("task__prompt", "task__round__instructions")
        .filter(pk=Given("assignment"), labeler=Given("labeler"), project=Given("project"))
        .order_by()
    )
)
_SAMPLES = Prepared(lambda: Sample.objects.filter(task=Given("task")).only("text").order_by())


def assignment_get(*, labeler: User, project: Project, assignment_id: UUID) -> Assignment:
    """One of this labeler's own assignments in this project; NotFound for any other."""
    found = _OWN.first(assignment=assignment_id, labeler=labeler.pk, project=project.pk)
    if found is None:
        raise NotFound(_("There is no such task among yours."))
    found.labeler = labeler
    return found


def assignment_view(assignment: Assignment) -> AssignmentView:
    """The page's content, answers in the order that was drawn for this labeler.

    Where the labeler still has to write their own answer first, there are none.
    """
    task, prompt = assignment.task, assignment.task.prompt
    writes = task.kind not in Task.ANSWERED or assignment.owes_own_answer
    judges = "vote" if task.kind == Task.Kind.PAIRWISE else "rank"
    shown = [] if writes else assignment.shown_order
    texts = {each.pk: each.text for each in _SAMPLES.rows(task=task.pk)} if shown else {}
    answers = [
        Answer(letter, texts[pk], len(texts[pk].split()))
        for letter, pk in zip(LETTERS, shown, strict=False)
    ]
    return AssignmentView(
        id=assignment.pk,
        kind=task.kind,
        step="write" if writes else judges,
        state=assignment.state,
        correcting=assignment.correcting_since is not None,
        lease_until=assignment.lease_until,
        prompt_kind=prompt.kind if prompt else task.asked_kind,
        use_case=prompt.use_case if prompt else "",
        prompt_text=prompt.text if prompt else "",
        parts=prompt.parts if prompt else {"stated_use_case": task.brief},
        sensitive=[str(Sensitive(each).label) for each in (prompt.sensitive if prompt else ())],
        answers=answers,
        draft=assignment.draft,
        draft_saved_at=assignment.draft_saved_at,
        active_ms=assignment.active_ms,
        token=assignment.token,
        idle_ms=assignment.idle_ms,
        instructions_number=task.round.instructions.number,
        instructions_body=task.round.instructions.body,
        round_number=task.round.number,
        token_limit=task.round.max_new_tokens,
        rating_fields=[name for name in RATING_FIELDS if name in task.round.rating_fields],
        ratings_required=task.round.ratings_required,
        strength_asked=task.round.strength_asked,
        reveal=task.round.reveal,
    )


@dataclass(frozen=True)
class Done:
    """Which of a labeler's tasks in its round this one is, and how many they may do."""

    number: int
    quota: int | None


def tasks_done(assignment: Assignment) -> Done:
    """How far the labeler is with the round of a task in hand."""
    round_ = assignment.task.round
    standings = Standing.objects.filter(round=round_, labeler=assignment.labeler_id)
    handed_in = standings.aggregate(n=Sum("handed_in"))["n"] or 0
    return Done(handed_in + 1, round_.quota)


def in_hand(*, project: Project, labeler: User) -> Assignment | None:
    """The task this labeler has in work."""
    return (
        project.assignments.filter(labeler=labeler, state=Assignment.State.LEASED)
        .select_related("task__prompt")
        .order_by("claimed_at")
        .first()
    )


def bearable(labeler: User) -> Q:
    """Tasks whose prompts hold nothing that this labeler opted out of."""
    if not labeler.avoids:
        return Q()
    avoided = Prompt.objects.filter(pk=OuterRef("prompt"), sensitive__overlap=labeler.avoids)
    return ~Exists(avoided)  # type: ignore[return-value]


@dataclass(frozen=True)
class Waiting:
    """How many open tasks of a kind there are for a labeler; ``more`` says: at least that many."""

    kind: str
    count: int
    more: bool

    @property
    def shown(self) -> str:
        """As a page says it: "12", or "1000+"."""
        return f"{self.count}+" if self.more else str(self.count)


def queue_counts(*, round_: Round | None, labeler: User) -> list[Waiting]:
    """Open tasks of each kind that this labeler could still get, counted up to ``COUNTED``.

    Bounded looks ahead of and behind the place that the labeler has reached.
    """
    if round_ is None:
        return [Waiting(kind, 0, False) for kind in Task.Kind.values]
    reached = dict(
        Standing.objects.filter(round=round_, labeler=labeler).values_list("kind", "reached")
    )
    return [_waiting(round_, labeler, kind, reached.get(kind, 0)) for kind in Task.Kind.values]


def _waiting(round_: Round, labeler: User, kind: str, reached: int) -> Waiting:
    tasks = Task.objects.filter(bearable(labeler), round=round_, kind=kind, claimable=True)
    mine = Assignment.objects.filter(labeler=labeler).exclude(state=Assignment.State.LAPSED)
    count, more = 0, False
    looks = [tasks.filter(position__gte=reached).order_by("position")]
    if reached:
        looks.append(tasks.filter(position__lt=reached).order_by("-position"))
    for look in looks:
        found = look[: COUNTED + 1].count()
        seen = mine.filter(task__in=look.values("pk")[:COUNTED]).count() if found else 0
        count, more = count + min(found, COUNTED) - seen, more or found > COUNTED
    if count == 0 and more:  # all in sight were this labeler's: look once through the whole
        free = tasks.filter(~Exists(mine.filter(task=OuterRef("pk"))))
        count, more = (1, True) if free.exists() else (0, False)
    return Waiting(kind, min(count, COUNTED), more or count > COUNTED)


def waiting_for_answers(round_: Round | None, kind: str = Task.Kind.RANKING) -> Waiting:
    """Tasks of a kind without answers yet, counted up to ``COUNTED``."""
    tasks = Task.objects.filter(round=round_, kind=kind, state=Task.State.WAITING)
    count = tasks.order_by()[: COUNTED + 1].count()
    return Waiting(kind, min(count, COUNTED), count > COUNTED)
