"""The labelers' API: flags and questions about a task in hand."""

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from labelapp.api.work import LabelerView
from labelapp.models import Assignment, Flag, Thread
from labelapp.selectors.concerns import flags_of, thread_of
from labelapp.services.concerns import answers_seen, flag_raise, note_ask


class FlagInput(serializers.Serializer[Any]):
    client_id = serializers.UUIDField()
    category = serializers.ChoiceField(choices=Flag.Category.choices)
    words = serializers.CharField(max_length=500, required=False, allow_blank=True)
    answer = serializers.CharField(max_length=1, required=False, allow_blank=True)


class NoteInput(serializers.Serializer[Any]):
    client_id = serializers.UUIDField()
    text = serializers.CharField(max_length=2000)


def concerns_json(assignment: Assignment) -> dict[str, Any]:
    """Flags and notes of one task. Admins are not named, only told apart from oneself."""
    thread = thread_of(assignment)
    return {
        "flags": flags_of(assignment),
        "notes": notes_json(thread) if thread else [],
        "unseen": bool(thread and thread.unseen),
    }


def notes_json(thread: Thread) -> list[dict[str, Any]]:
    """The thread as its labeler sees it."""
    return [
        {"mine": note.author_id == thread.labeler_id, "text": note.text, "at": note.created_at}
        for note in thread.notes.all()
    ]


class ConcernsView(LabelerView):
    """What this labeler flagged and asked (GET); the answers were read (POST)."""

    def get(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        return Response(concerns_json(self.own(assignment_id)))

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        own = self.own(assignment_id)
        thread = thread_of(own)
        if thread is not None:
            answers_seen(project=self.membership.project, labeler=self.labeler, thread_id=thread.pk)
        return Response(concerns_json(own))


class FlagView(LabelerView):
    throttle_scope = "submit"

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        own, data = self.own(assignment_id), self.checked(FlagInput, request.data)
        flag_raise(assignment_id=own.pk, labeler=self.labeler, **data)
        return Response(concerns_json(own))


class NoteView(LabelerView):
    throttle_scope = "submit"

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        own, data = self.own(assignment_id), self.checked(NoteInput, request.data)
        note_ask(assignment_id=own.pk, labeler=self.labeler, **data)
        return Response(concerns_json(own))
