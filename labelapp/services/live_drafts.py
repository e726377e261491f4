"""What is typed of a live prompt before it is asked: kept on the server, as drafts of tasks are."""

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from labelapp.models import LiveDraft, LivePrompt, Project, User


@transaction.atomic
def live_draft_save(
    *, project: Project, labeler: User, text: str, use_case: str, client_id: UUID
) -> datetime:
    """Keep it, or nothing for an empty text; when. One that comes after its prompt is dropped."""
    if LivePrompt.objects.filter(client_id=client_id).exists():
        return timezone.now()
    if not text.strip():
        LiveDraft.objects.filter(project=project, labeler=labeler).delete()
        return timezone.now()
    kept, _ = LiveDraft.objects.update_or_create(
        project=project,
        labeler=labeler,
        defaults={"text": text, "use_case": use_case, "client_id": client_id},
    )
    return kept.saved_at
