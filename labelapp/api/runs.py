"""Runs for admins and researchers: the state of one, and its curves."""

from dataclasses import asdict
from typing import ClassVar
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response

from labelapp.api.access import ProjectView
from labelapp.models import Role
from labelapp.selectors.registry import run_get, run_series, stage_view

NAMES_LIMIT = 40


class SteeringView(ProjectView):
    """A view for those who watch training."""

    roles: ClassVar = (Role.ADMIN, Role.RESEARCHER)


class RunDetailView(SteeringView):
    def get(self, request: Request, slug: str, run_id: UUID) -> Response:
        return Response(asdict(stage_view(run_get(project=self.membership.project, run_id=run_id))))


class RunSeriesView(SteeringView):
    """``?names=loss,kl`` -> {"steps": [...], "series": {"loss": [...], "kl": [...]}}; all without names."""

    def get(self, request: Request, slug: str, run_id: UUID) -> Response:
        run = run_get(project=self.membership.project, run_id=run_id)
        asked = [name.strip() for name in request.query_params.get("names", "").split(",")]
        names = list(dict.fromkeys(filter(None, asked)))[:NAMES_LIMIT]
        return Response(run_series(run=run, names=names or None))
