"""The Celery application, and the signs of life that /readyz reports."""

import logging
import os
import socket
import time

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labelapp.settings")

app = Celery("labelapp")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["labelapp"])

logger = logging.getLogger(__name__)
SIGN_EVERY = 5.0
"""Seconds between two signs of life of one process."""


class SignOfLife:
    """Writes `WorkerSign` rows, at most one every SIGN_EVERY seconds; a database that is away only costs a log line."""

    def __init__(self) -> None:
        self.is_beat = False
        self.last = float("-inf")

    def give(self, kind: str) -> None:
        """Record that a process of this kind is alive on this host."""
        now = time.monotonic()
        if now - self.last < SIGN_EVERY:
            return
        self.last = now
        from django.db import Error, connection

        from labelapp.services.signs import worker_sign_record

        try:
            worker_sign_record(kind=kind, host=socket.gethostname())
        except Error as error:
            logger.warning("no sign of life written for %s: %s", kind, error)
        finally:
            connection.close()


sign_of_life = SignOfLife()


@signals.heartbeat_sent.connect
def worker_is_alive(sender: object, **kwargs: object) -> None:
    """Every two seconds in a worker's main process; the kind is the first part of its node name."""
    hostname = str(getattr(getattr(sender, "eventer", None), "hostname", ""))
    sign_of_life.give(hostname.split("@")[0])


@signals.beat_init.connect
def beat_starts(**kwargs: object) -> None:
    """Remember that this process is beat: what it publishes is its sign of life."""
    sign_of_life.is_beat = True


@signals.after_task_publish.connect
def task_published(**kwargs: object) -> None:
    """Beat published a due task, so the broker and beat both work."""
    if sign_of_life.is_beat:
        sign_of_life.give("beat")


@signals.setup_logging.connect
def keep_django_logging(**kwargs: object) -> None:
    """Having a receiver is enough: Celery then leaves the logging of settings.py alone."""
