"""The JSON API, one module per audience."""

from django.urls import URLPattern, path

from labelapp.api import live, runs, work

_assignment = "p/<slug:slug>/assignments/<uuid:assignment_id>/"

urlpatterns: list[URLPattern] = [
    path("p/<slug:slug>/next/", work.NextView.as_view(), name="api-next"),
    path("p/<slug:slug>/live/", live.LiveView.as_view(), name="api-live"),
    path(_assignment, work.AssignmentDetailView.as_view(), name="api-assignment"),
    path(f"{_assignment}draft/", work.DraftView.as_view(), name="api-draft"),
    path(f"{_assignment}heartbeat/", work.HeartbeatView.as_view(), name="api-heartbeat"),
    path(f"{_assignment}submit/", work.SubmitView.as_view(), name="api-submit"),
    path(f"{_assignment}skip/", work.SkipView.as_view(), name="api-skip"),
    path("p/<slug:slug>/runs/<uuid:run_id>/", runs.RunDetailView.as_view(), name="api-run"),
    path(
        "p/<slug:slug>/runs/<uuid:run_id>/series/",
        runs.RunSeriesView.as_view(),
        name="api-run-series",
    ),
]
