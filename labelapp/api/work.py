"""The labelers' API: next task, draft, sign of life, submit, skip."""

from dataclasses import asdict
from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from labelapp.api.access import ProjectView
from labelapp.errors import StateConflict
from labelapp.models import ApiToken, Assignment, Demonstration, Ranking, Role, Task, User, Vote
from labelapp.selectors.history import revealed
from labelapp.selectors.queue import assignment_get, assignment_view
from labelapp.services.aftercare import correction_drop, correction_open, label_undo
from labelapp.services.assignments import (
    assignment_claim_next,
    assignment_draft_save,
    assignment_heartbeat,
    assignment_skip,
)
from labelapp.services.labels import ranking_submit, text_submit
from labelapp.services.votes import vote_submit
from labelapp.services.written_prompts import written_prompt_submit

TIME_MS_LIMIT = 7 * 24 * 3600 * 1000


class NextInput(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=Task.Kind.choices, required=False)


class HeartbeatInput(serializers.Serializer[Any]):
    token = serializers.UUIDField(required=False)


class DraftInput(serializers.Serializer[Any]):
    token = serializers.UUIDField(required=False)
    draft = serializers.DictField()
    active_ms = serializers.IntegerField(min_value=0, max_value=TIME_MS_LIMIT, required=False)
    idle_ms = serializers.IntegerField(min_value=0, max_value=TIME_MS_LIMIT, required=False)
    over = serializers.CharField(max_length=100, required=False, allow_null=True)


class SkipInput(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=200)


class SubmitInput(serializers.Serializer[Any]):
    client_id = serializers.UUIDField()
    active_ms = serializers.IntegerField(min_value=0, max_value=TIME_MS_LIMIT, required=False)
    idle_ms = serializers.IntegerField(min_value=0, max_value=TIME_MS_LIMIT, required=False)
    draft = serializers.DictField(required=False)
    text = serializers.CharField(required=False, trim_whitespace=False)
    groups = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField(max_length=1), max_length=9),
        max_length=9,
        required=False,
    )
    prompt = serializers.DictField(required=False)
    choice = serializers.ChoiceField(choices=Vote.Choice.choices, required=False)
    not_judged = serializers.ListField(
        child=serializers.CharField(max_length=1), max_length=9, required=False
    )
    all_bad = serializers.BooleanField(required=False)
    strength = serializers.IntegerField(required=False, allow_null=True)
    ratings = serializers.DictField(required=False)  # letter -> 1 to 7; checked by the service
    flags = serializers.DictField(required=False)  # letter -> field -> true, false, null

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if sum(name in attrs for name in ("text", "groups", "prompt", "choice")) != 1:
            raise serializers.ValidationError(
                {
                    "text": _(
                        "Send text (a demonstration), groups (a ranking), prompt (a prompt) or"
                        " choice (a vote on a pair)."
                    )
                }
            )
        shared = {"client_id", "active_ms", "idle_ms", "draft", "text", "choice"}
        beside = sorted(set(attrs) - shared)
        if beside and ("text" in attrs or "choice" in attrs):
            raise serializers.ValidationError({beside[0]: _("This belongs to a ranking.")})
        return attrs


def assignment_json(assignment: Assignment) -> dict[str, Any]:
    """The assignment as the page sees it."""
    return asdict(assignment_view(assignment))


class LabelerView(ProjectView):
    """A view for labelers; ``self.labeler`` is who asks."""

    roles: ClassVar = (Role.LABELER,)
    token_scope: ClassVar = ApiToken.Scope.LABEL

    @property
    def labeler(self) -> User:
        return self.membership.user

    def checked(self, serializer: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
        checked = serializer(data=data)
        checked.is_valid(raise_exception=True)
        return checked.validated_data

    def own(self, assignment_id: UUID) -> Assignment:
        """The assignment, if it is this labeler's and in this project."""
        return assignment_get(
            labeler=self.labeler, project=self.membership.project, assignment_id=assignment_id
        )


class NextView(LabelerView):
    def post(self, request: Request, slug: str) -> Response:
        data = self.checked(NextInput, request.data)
        claimed = assignment_claim_next(
            project=self.membership.project, labeler=self.labeler, kind=data.get("kind")
        )
        if claimed is None:
            return Response({"assignment": None, "message": _("There is nothing to do right now.")})
        return Response({"assignment": assignment_json(claimed), "message": ""})


class AssignmentDetailView(LabelerView):
    def get(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        return Response(assignment_json(self.own(assignment_id)))


class DraftView(LabelerView):
    def put(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        data = self.checked(DraftInput, request.data)
        saved = assignment_draft_save(
            assignment_id=self.own(assignment_id).pk, labeler=self.labeler, **data
        )
        return Response({"saved_at": saved.draft_saved_at})


class HeartbeatView(LabelerView):
    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        data = self.checked(HeartbeatInput, request.data)
        held = assignment_heartbeat(
            assignment_id=self.own(assignment_id).pk, labeler=self.labeler, **data
        )
        return Response({"lease_until": held.lease_until, "now": timezone.now()})


class SkipView(LabelerView):
    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        data = self.checked(SkipInput, request.data)
        skipped = assignment_skip(
            assignment_id=self.own(assignment_id).pk, labeler=self.labeler, reason=data["reason"]
        )
        return Response({"state": skipped.state})


class SubmitView(LabelerView):
    throttle_scope = "submit"

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        data = self.checked(SubmitInput, request.data)
        asked: dict[str, Any] = {
            "assignment_id": assignment_id,
            "labeler": self.labeler,
            "project": self.membership.project,
        }
        if "groups" in data:
            label: Demonstration | Ranking | Vote = ranking_submit(**asked, **data)
        elif "choice" in data:
            label = vote_submit(**asked, **data)
        elif "prompt" in data:
            written = written_prompt_submit(**asked, **data)
            return Response({"state": self.own(assignment_id).state, "label_id": written.pk})
        else:
            label = text_submit(**asked, **data)
            if label.before_ranking:  # which is still to come
                return Response({"state": "written", "label_id": label.pk})
        state = Assignment.State.SURPLUS if label.surplus else Assignment.State.SUBMITTED
        return Response({"state": state, "label_id": label.pk})


class UndoView(LabelerView):
    """Take the last submit back."""

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        reopened = label_undo(assignment_id=self.own(assignment_id).pk, labeler=self.labeler)
        return Response({"state": reopened.state, "draft": reopened.draft})


class CorrectionView(LabelerView):
    """Open a settled label for its next version (POST), or leave it as it is (DELETE)."""

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        opened = correction_open(assignment_id=self.own(assignment_id).pk, labeler=self.labeler)
        return Response({"state": opened.state, "draft": opened.draft})

    def delete(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        left = correction_drop(assignment_id=self.own(assignment_id).pk, labeler=self.labeler)
        return Response({"state": left.state})


class VersionsView(LabelerView):
    """Which versions wrote the two answers of a pair: after the vote, where the round shows it."""

    def get(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        shown = revealed(self.own(assignment_id))
        if shown is None:
            raise StateConflict(
                _(
                    "Who wrote which is shown once your vote counts, and only where the round does so."
                )
            )
        return Response(asdict(shown))
