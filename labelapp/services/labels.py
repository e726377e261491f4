"""Handing in: the label and the assignment's state in one transaction; a retry is safe."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import (
    LETTERS,
    Assignment,
    Demonstration,
    Project,
    Ranking,
    Task,
    User,
)
from labelapp.services.assignments import active_ms_bounded, assignment_lock, idle_ms_bounded
from labelapp.services.disagreement import ranking_compared
from labelapp.services.handing_in import (
    CLOSED,
    earlier_submit,
    expect_kind,
    label_hand_in,
    of_another_task,
)
from labelapp.services.ranking_rows import ranking_write
from labelapp.services.ratings import ratings_checked, ratings_store
from labelapp.texts import storable

TEXT_LIMIT = 60_000


def _text_checked(text: str) -> str:
    text = text.strip()
    if not text:
        raise BadInput(_("Write an answer before you submit."), fields={"text": _("Empty.")})
    if len(text) > TEXT_LIMIT or not storable(text):
        raise BadInput(
            _("The answer must be plain text of at most %(limit)s characters.")
            % {"limit": number_format(TEXT_LIMIT, force_grouping=True)},
            fields={"text": _("Too long or not text.")},
        )
    return text


@transaction.atomic
def text_submit(
    *,
    assignment_id: UUID,
    labeler: User,
    text: str,
    client_id: UUID,
    active_ms: int | None = None,
    idle_ms: int | None = None,
    draft: dict[str, Any] | None = None,
    project: Project | None = None,
) -> Demonstration:
    """Store a text: a demonstration, which hands the task in, or one's own answer before a ranking.

    After the latter the task stays the labeler's, and the draft and the counts of time begin anew.
    The same ``client_id`` again gives the same row. ``draft`` is the page as it stood, with which
    an undo opens it again.
    """
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler, project=project)
    if assignment.task.kind == Task.Kind.RANKING:
        written = _own_answer(assignment, text, client_id, active_ms, idle_ms)
    else:
        written = _demonstration(assignment, text, client_id, active_ms, idle_ms, draft)
    written.assignment = assignment
    return written


def _demonstration(
    assignment: Assignment,
    text: str,
    client_id: UUID,
    active_ms: int | None,
    idle_ms: int | None,
    draft: dict[str, Any] | None,
) -> Demonstration:
    expect_kind(assignment, Task.Kind.DEMONSTRATION)
    earlier = earlier_submit(Demonstration, assignment, client_id)
    if earlier is not None:
        return earlier
    demonstration = Demonstration(
        prompt_id=assignment.task.prompt_id,  # type: ignore[misc]  # this kind of task has one
        source=Demonstration.Source.LABELER,
        text=_text_checked(text),
        client_id=client_id,
        **label_hand_in(Demonstration, assignment, active_ms, idle_ms, draft),
    )
    assignment.save(update_fields=CLOSED)
    demonstration.save(force_insert=True)
    return demonstration


def _own_answer(
    assignment: Assignment,
    text: str,
    client_id: UUID,
    active_ms: int | None,
    idle_ms: int | None,
) -> Demonstration:
    if not assignment.task.round.write_first:
        raise BadInput(_("This task asks for a ranking, not for a text."))
    earlier = earlier_submit(Demonstration, assignment, client_id)
    if earlier is not None:
        return earlier
    if not assignment.owes_own_answer:
        raise StateConflict(_("You have written your answer to this already; reload the page."))
    text = _text_checked(text)
    assignment.active_ms = active_ms_bounded(assignment, active_ms)
    written = Demonstration.objects.create(  # it settles at once: its ranking is what is undone
        project_id=assignment.project_id,
        prompt_id=assignment.task.prompt_id,  # type: ignore[misc]  # this kind of task has one
        assignment=assignment,
        labeler=assignment.labeler,
        source=Demonstration.Source.LABELER,
        text=text,
        client_id=client_id,
        active_ms=assignment.active_ms,
        idle_ms=idle_ms_bounded(assignment, idle_ms),
        simulated=assignment.labeler.simulated,
    )
    assignment.draft, assignment.draft_saved_at = {}, None
    assignment.active_ms = assignment.idle_ms = 0
    assignment.save(update_fields=["draft", "draft_saved_at", "active_ms", "idle_ms"])
    return written


def groups_checked(
    groups: list[list[str]], k: int, not_judged: Collection[str] = ()
) -> list[list[str]]:
    """Groups of letters, best first; each of the first ``k`` letters is in one, or not judged."""
    placed = [letter for group in groups for letter in group]
    unknown = sorted({*placed, *not_judged} - set(LETTERS[:k]))
    if unknown:
        raise BadInput(
            _("There is no answer %(name)s.") % {"name": unknown[0]},
            fields={"groups": _("Unknown letter.")},
        )
    if len(placed) != len(set(placed)):
        raise BadInput(_("An answer stands in two places."), fields={"groups": _("Placed twice.")})
    both = sorted(set(placed) & set(not_judged))
    if both:
        raise BadInput(
            _("Answer %(letter)s is ranked and marked as not judged; choose one of the two.")
            % {"letter": both[0]},
            fields={"not_judged": _("Ranked too.")},
        )
    missing = [letter for letter in LETTERS[:k] if letter not in placed]
    if set(missing) - set(not_judged):
        raise BadInput(
            _(
                "Place every answer before you submit, or mark it as not judged: %(letters)s not placed yet."
            )
            % {"letters": ", ".join(each for each in missing if each not in not_judged)},
            fields={"groups": _("Not all placed.")},
        )
    if not placed:
        raise BadInput(
            _("Judge at least one answer, or skip the task."),
            fields={"groups": _("Nothing judged.")},
        )
    return [group for group in groups if group]


def _strength_checked(strength: int | None, *, asked: bool) -> int | None:
    if strength is not None and not asked:
        raise BadInput(
            _("This round does not ask how much better the best answer is; leave out strength."),
            fields={"strength": _("Not asked.")},
        )
    if strength is not None and not 1 <= strength <= 4:
        raise BadInput(
            _("strength must be from 1 (hardly better) to 4 (far better)."),
            fields={"strength": _("Out of range.")},
        )
    return strength


@transaction.atomic
def ranking_submit(
    *,
    assignment_id: UUID,
    labeler: User,
    groups: list[list[str]],
    client_id: UUID,
    active_ms: int | None = None,
    idle_ms: int | None = None,
    draft: dict[str, Any] | None = None,
    project: Project | None = None,
    not_judged: Collection[str] = (),
    all_bad: bool = False,
    strength: int | None = None,
    ratings: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Ranking:
    """Store a ranking and what was said of each answer alone.

    ``groups`` are letters as shown, best first, a group is a tie; what is ``not_judged`` is in
    none. ``ratings`` (1 to 7) and ``flags`` (field -> true, false, null) are by letter.
    """
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler, project=project)
    expect_kind(assignment, Task.Kind.RANKING)
    fresh = assignment.state == Assignment.State.LEASED and not assignment.withdrawn_ids
    earlier = None if fresh else earlier_submit(Ranking, assignment, client_id)
    if earlier is not None:
        return earlier
    if assignment.owes_own_answer:
        raise StateConflict(_("Write your own answer first; then you see those to rank."))
    round_ = assignment.task.round
    k = len(assignment.shown_order)
    groups = groups_checked(groups, k, not_judged)
    strength = _strength_checked(strength, asked=round_.strength_asked)
    said = ratings_checked(
        round_=round_,
        letters=LETTERS[:k],
        ratings=ratings or {},
        flags=flags or {},
        not_judged=not_judged,
    )
    ranking = Ranking(
        task_id=assignment.task_id,
        client_id=client_id,
        all_bad=all_bad,
        strength=strength,
        **label_hand_in(Ranking, assignment, active_ms, idle_ms, draft),
    )
    try:
        places = ranking_write(ranking, groups, CLOSED)
    except IntegrityError as error:
        if "client_id" in str(error):
            raise of_another_task() from None
        raise
    ratings_store(places, said)
    if ranking.version == 1:
        ranking_compared(ranking, assignment.task)
    return ranking
