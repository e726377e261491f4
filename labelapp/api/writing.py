"""The writing page's API: what is written so far as it will look, and how long it is."""

from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from labelapp.api.work import LabelerView
from labelapp.markdown import render
from labelapp.services.labels import TEXT_LIMIT
from labelapp.services.written_prompts import text_so_far
from labelapp.tokens import token_count


class PreviewInput(serializers.Serializer[Any]):
    text = serializers.CharField(
        max_length=TEXT_LIMIT, trim_whitespace=False, allow_blank=True, required=False
    )
    prompt = serializers.DictField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs) != 1:
            raise serializers.ValidationError({"text": _("Send text (an answer) or prompt.")})
        return attrs


class PreviewView(LabelerView):
    """``html`` is sanitised; ``tokens`` are the round's model's, null where it cannot be reached.

    Of a ``prompt``, as its page holds it, only the length is told: of the text that the model gets.
    """

    throttle_scope = "preview"

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        data = self.checked(PreviewInput, request.data)
        policy = self.own(assignment_id).task.round.policy
        if "prompt" in data:
            return Response({"tokens": token_count(policy.run_id, text_so_far(data["prompt"]))})
        text: str = data["text"]
        return Response({"html": render(text), "tokens": token_count(policy.run_id, text)})
