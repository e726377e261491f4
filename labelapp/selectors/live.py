"""A labeler's own live prompts."""

from django.db.models import Exists, OuterRef, QuerySet, Subquery

from labelapp.models import Assignment, LivePrompt, Project, User


def live_prompts_own(*, project: Project, labeler: User) -> QuerySet[LivePrompt]:
    """Newest first, each with its prompt, its task, and ``mine``: the state of one's own work on it."""
    work = Assignment.objects.filter(task=OuterRef("task"), labeler=labeler)
    return (
        project.live_prompts.filter(labeler=labeler)
        .select_related("prompt", "task")
        .annotate(mine=Subquery(work.values("state")[:1]))
    )


def live_draft(*, project: Project, labeler: User) -> dict[str, object] | None:
    """What this labeler has typed and not asked yet."""
    asked = LivePrompt.objects.filter(client_id=OuterRef("client_id"))
    drafts = project.live_drafts.filter(~Exists(asked), labeler=labeler)
    found = drafts.values("text", "use_case", "client_id", "saved_at").first()
    return dict(found) if found else None
