"""The JSON API, one module per audience."""

from django.urls import URLPattern, path

from labelapp.api import concerns, live, runs, work, writing

_assignment = "p/<slug:slug>/assignments/<uuid:assignment_id>/"

urlpatterns: list[URLPattern] = [
    path("p/<slug:slug>/next/", work.NextView.as_view(), name="api-next"),
    path("p/<slug:slug>/live/", live.LiveView.as_view(), name="api-live"),
    path("p/<slug:slug>/live/draft/", live.LiveDraftView.as_view(), name="api-live-draft"),
    path(_assignment, work.AssignmentDetailView.as_view(), name="api-assignment"),
    path(f"{_assignment}draft/", work.DraftView.as_view(), name="api-draft"),
    path(f"{_assignment}heartbeat/", work.HeartbeatView.as_view(), name="api-heartbeat"),
    path(f"{_assignment}submit/", work.SubmitView.as_view(), name="api-submit"),
    path(f"{_assignment}preview/", writing.PreviewView.as_view(), name="api-preview"),
    path(f"{_assignment}skip/", work.SkipView.as_view(), name="api-skip"),
    path(f"{_assignment}undo/", work.UndoView.as_view(), name="api-undo"),
    path(f"{_assignment}correction/", work.CorrectionView.as_view(), name="api-correction"),
    path(f"{_assignment}versions/", work.VersionsView.as_view(), name="api-versions"),
    path(f"{_assignment}concerns/", concerns.ConcernsView.as_view(), name="api-concerns"),
    path(f"{_assignment}flags/", concerns.FlagView.as_view(), name="api-flag"),
    path(f"{_assignment}notes/", concerns.NoteView.as_view(), name="api-note"),
    path("p/<slug:slug>/runs/<uuid:run_id>/", runs.RunDetailView.as_view(), name="api-run"),
    path(
        "p/<slug:slug>/runs/<uuid:run_id>/series/",
        runs.RunSeriesView.as_view(),
        name="api-run-series",
    ),
]
