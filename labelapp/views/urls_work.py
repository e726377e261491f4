"""The labelers' pages."""

from django.urls import URLPattern, path

from labelapp.views import concerns, differences, history, live, work

_p = "p/<slug:slug>/"
_task = f"{_p}task/<uuid:assignment_id>/"

urlpatterns: list[URLPattern] = [
    path(f"{_p}work/", work.work, name="work"),
    path(f"{_p}work/next/", work.work_next, name="work-next"),
    path(f"{_p}live/", live.live, name="live"),
    path(f"{_p}live/<int:pk>/rank/", live.live_rank, name="live-rank"),
    path(_task, work.task, name="task"),
    path(f"{_task}difference/", differences.difference, name="task-difference"),
    path(f"{_task}undo/", history.work_undo, name="work-undo"),
    path(f"{_task}correct/", history.correct, name="correct"),
    path(f"{_task}correct/drop/", history.correct_drop, name="correct-drop"),
    path(f"{_p}work/answers/<int:pk>/seen/", concerns.thread_seen, name="thread-seen"),
    path(f"{_p}history/", history.history, name="history"),
    path(f"{_p}history/<uuid:assignment_id>/", history.history_label, name="history-label"),
]
