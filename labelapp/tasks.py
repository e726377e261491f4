"""Celery tasks: ids in, one service call. Each may run twice and does nothing the second time."""

import logging
import os
import socket
import threading
from typing import Any
from uuid import UUID

from celery import current_app, shared_task, signals
from django.db import transaction
from kombu.exceptions import ChannelError

from labelapp.services.assignments import assignments_lapse
from labelapp.services.disagreement import tasks_compare
from labelapp.services.execution import run_execute as execute
from labelapp.services.live import live_prompts_queue, policies_refresh
from labelapp.services.run_leases import runs_ready, runs_reclaim

logger = logging.getLogger(__name__)

GPU_QUEUE = "gpu"
BACKLOG = 50
"""Nudges that wait in the GPU queue; more would say nothing new."""

_leaving = threading.Event()


@signals.worker_shutting_down.connect
def worker_leaves(**kwargs: object) -> None:
    """This worker was asked to end: what it runs goes back to the queue."""
    _leaving.set()


@shared_task(name="labelapp.tasks.run_execute")  # routed to GPU_QUEUE by CELERY_TASK_ROUTES
def run_execute(run_id: str) -> None:
    """Carry out one run, then nudge for those that waited for it."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    if execute(run_id=UUID(run_id), worker=worker, leaving=_leaving.is_set):
        _nudge_ready()


@shared_task(name="labelapp.tasks.sweep")
def sweep() -> None:
    """What nobody was told of: lapsed assignments, rankings to compare, live prompts, runs left behind or ready, the policy served."""
    assignments_lapse()
    tasks_compare()
    live_prompts_queue()
    policies_refresh()
    waiting = [*runs_reclaim(), *runs_ready()]
    if waiting and _backlog() < BACKLOG:
        for run_id in waiting:
            run_execute.delay(str(run_id))


def runs_nudge() -> None:
    """After commit, tell the GPU workers of every run that is ready.

    A broker that is away is logged and nothing else: beat sweeps.
    """
    transaction.on_commit(_nudge_ready, robust=True)


def _nudge_ready() -> None:
    for run_id in runs_ready():
        run_execute.delay(str(run_id))


def _backlog() -> int:
    with current_app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        try:
            return int(channel.queue_declare(GPU_QUEUE, passive=True)[1])
        except ChannelError:  # an empty queue is none
            return 0
