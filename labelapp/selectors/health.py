"""Is everything there that the product needs? What /readyz answers."""

from dataclasses import dataclass
from datetime import timedelta

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Max
from django.utils import timezone

from labelapp.models import WorkerSign
from labelapp.processes import PROCESSES

SIGN_VALID = timedelta(seconds=45)
"""A kind of worker that was silent for longer counts as missing."""


@dataclass(frozen=True)
class Part:
    """One thing the product needs."""

    ok: bool
    detail: str


def readiness() -> dict[str, Part]:
    """Every part by name: database, migrations, broker, and each kind of worker."""
    parts = {"database": _database(), "broker": _broker()}
    if not parts["database"].ok:
        return parts
    parts["migrations"] = _migrations()
    if parts["migrations"].ok:
        parts |= _workers()
    return parts


def _database() -> Part:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return Part(False, type(error).__name__)
    return Part(True, "answers")


def _broker() -> Part:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=3) as client:
            client.ping()
    except redis.RedisError as error:
        return Part(False, type(error).__name__)
    return Part(True, "answers")


def _migrations() -> Part:
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return Part(not waiting, f"{len(waiting)} to apply" if waiting else "applied")


def _workers() -> dict[str, Part]:
    seen = dict(WorkerSign.objects.values_list("kind").annotate(Max("seen_at")))
    now = timezone.now()
    parts = {}
    for process in PROCESSES:
        if not process.gives_signs:
            continue
        at = seen.get(process.name)
        if at is None:
            parts[process.name] = Part(False, "never seen")
        else:
            age = now - at
            parts[process.name] = Part(
                age <= SIGN_VALID, f"seen {max(0, round(age.total_seconds()))} s ago"
            )
    return parts
