"""The labelers' pages."""

from django.urls import URLPattern, path

from labelapp.views import differences, live, work

urlpatterns: list[URLPattern] = [
    path("p/<slug:slug>/work/", work.work, name="work"),
    path("p/<slug:slug>/work/next/", work.work_next, name="work-next"),
    path("p/<slug:slug>/live/", live.live, name="live"),
    path("p/<slug:slug>/live/<int:pk>/rank/", live.live_rank, name="live-rank"),
    path("p/<slug:slug>/task/<uuid:assignment_id>/", work.task, name="task"),
    path(
        "p/<slug:slug>/task/<uuid:assignment_id>/difference/",
        differences.difference,
        name="task-difference",
    ),
]
