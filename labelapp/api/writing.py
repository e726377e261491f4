"""The writing page's API: what is written so far as it will look, and how long it is."""

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from labelapp.api.work import LabelerView
from labelapp.markdown import render
from labelapp.services.labels import TEXT_LIMIT
from labelapp.tokens import token_count


class PreviewInput(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=TEXT_LIMIT, trim_whitespace=False, allow_blank=True)


class PreviewView(LabelerView):
    """``html`` is sanitised; ``tokens`` are the round's model's, null where it cannot be reached."""

    throttle_scope = "preview"

    def post(self, request: Request, slug: str, assignment_id: UUID) -> Response:
        text: str = self.checked(PreviewInput, request.data)["text"]
        policy = self.own(assignment_id).task.round.policy
        return Response({"html": render(text), "tokens": token_count(policy.run_id, text)})
