"""What labelers asked and flagged, and what was answered."""

from django.db.models import Prefetch, QuerySet

from labelapp.models import LETTERS, Assignment, Flag, Note, Project, Thread, User

SHOWN = 5
"""Answered threads on the work page at most; the rest follow as these are read."""

_NOTES = Prefetch("notes", queryset=Note.objects.select_related("author"))


def threads_waiting(project: Project) -> QuerySet[Thread]:
    """Questions without an answer, the longest wait first."""
    return (
        project.threads.filter(waiting=True)
        .select_related("labeler", "assignment__task__prompt")
        .prefetch_related(_NOTES)
        .order_by("updated_at", "pk")
    )


def threads_answered(project: Project) -> QuerySet[Thread]:
    """The rest, newest first."""
    return (
        project.threads.filter(waiting=False)
        .select_related("labeler", "assignment__task__prompt")
        .prefetch_related(_NOTES)
        .order_by("-updated_at", "-pk")
    )


def flags_open(project: Project) -> QuerySet[Flag]:
    """Flags that nobody has dealt with, oldest first."""
    return (
        project.flags.filter(resolved_at__isnull=True)
        .select_related("assignment__labeler", "assignment__task__prompt", "sample")
        .order_by("pk")
    )


def concern_counts(project: Project) -> dict[str, int]:
    """How many questions and flags wait for an admin."""
    return {
        "questions": project.threads.filter(waiting=True).count(),
        "flags": flags_open(project).count(),
    }


def answers_unseen(*, project: Project, labeler: User) -> list[Thread]:
    """The labeler's threads with an answer not seen yet, oldest first."""
    return list(
        project.threads.filter(labeler=labeler, unseen=True)
        .select_related("assignment__task__prompt")
        .prefetch_related(_NOTES)
        .order_by("updated_at", "pk")[:SHOWN]
    )


def thread_of(assignment: Assignment) -> Thread | None:
    """The assignment's thread with its notes."""
    return Thread.objects.filter(assignment=assignment).prefetch_related(_NOTES).first()


def flags_of(assignment: Assignment) -> list[dict[str, str]]:
    """What the labeler flagged on a task, as the page says it."""
    letter_of = dict(zip(assignment.shown_order, LETTERS, strict=False))
    return [
        {
            "category": flag.get_category_display(),
            "words": flag.words,
            "answer": letter_of.get(flag.sample_id or 0, ""),
        }
        for flag in assignment.flags.order_by("pk")
    ]
