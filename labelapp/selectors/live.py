"""A labeler's own live prompts."""

from django.db.models import OuterRef, QuerySet, Subquery

from labelapp.models import Assignment, LivePrompt, Project, User


def live_prompts_own(*, project: Project, labeler: User) -> QuerySet[LivePrompt]:
    """Newest first, each with its prompt, its task, and ``mine``: the state of one's own work on it."""
    work = Assignment.objects.filter(task=OuterRef("task"), labeler=labeler)
    return (
        project.live_prompts.filter(labeler=labeler)
        .select_related("prompt", "task")
        .annotate(mine=Subquery(work.values("state")[:1]))
    )
