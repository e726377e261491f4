"""Live prompting's API: a prompt in, answers as JSON lines."""

import json
from collections.abc import Iterator
from typing import Any

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from labelapp.api.work import LabelerView
from labelapp.models import LivePrompt, Task, UseCase
from labelapp.services.live import live_answers, live_prompt_write
from labelapp.services.live_drafts import live_draft_save
from labelapp.services.prompts import TEXT_LIMIT
from labelapp.tasks import runs_nudge


class LiveInput(serializers.Serializer[Any]):
    client_id = serializers.UUIDField()
    text = serializers.CharField(max_length=TEXT_LIMIT)
    use_case = serializers.ChoiceField(choices=UseCase.choices, default=UseCase.OTHER)


class LiveDraftInput(LiveInput):
    text = serializers.CharField(max_length=TEXT_LIMIT, allow_blank=True, trim_whitespace=False)


class LiveDraftView(LabelerView):
    def put(self, request: Request, slug: str) -> Response:
        data = self.checked(LiveDraftInput, request.data)
        project = self.membership.project
        saved_at = live_draft_save(project=project, labeler=self.labeler, **data)
        return Response({"saved_at": saved_at})


class LiveView(LabelerView):
    throttle_scope = "live"

    def post(self, request: Request, slug: str) -> HttpResponseBase:
        data = self.checked(LiveInput, request.data)
        live, ours = live_prompt_write(
            project=self.membership.project, labeler=self.labeler, **data
        )
        answer = StreamingHttpResponse(
            _lines(live, slug, ours), content_type="application/x-ndjson"
        )
        answer["Cache-Control"] = "no-store"
        answer["X-Accel-Buffering"] = "no"
        return answer


def _lines(live: LivePrompt, slug: str, ours: bool) -> Iterator[bytes]:
    """Every line ends what it says; the first one comes at once."""
    yield _line({"event": "kept"})
    if not ours:
        waiting = live.task.state == Task.State.WAITING
        yield _line({"event": "later" if waiting else "done", "why": "asked already"})
        return
    try:
        for event in live_answers(live):
            if event["event"] == "ready":
                where = {"slug": slug, "assignment_id": event.pop("assignment")}
                event["url"] = reverse("task", kwargs=where)
            yield _line(event)
    finally:
        runs_nudge()  # of the sampling run that takes it up, where there is one


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
