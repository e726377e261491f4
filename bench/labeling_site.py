"""A site of its own for the labeling load: PostgreSQL, Valkey, the web server, tasks by COPY.

Nothing of it touches another installation: its servers, keys and files lie below one folder.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bench.measure import ROOT
from labelapp.embedded import EmbeddedServers

SLUG = "load"
WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "copper",
    "letter",
    "winter",
    "bread",
    "signal",
    "harbour",
    "violet",
    "engine",
]


class Site(NamedTuple):
    """Where it answers, and what its processes need to know."""

    url: str
    database_url: str
    environment: dict[str, str]


@contextmanager
def site(port: int, workers: int, threads: int) -> Iterator[Site]:
    """Migrated, without a web server yet."""
    with tempfile.TemporaryDirectory(prefix="labelapp-load-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as a user of its own
        servers = EmbeddedServers(folder / "servers", durable=True)
        with servers.use() as addresses:
            environment = os.environ | {
                "LABELAPP_MODE": "demo",
                "LABELAPP_VAR": str(folder / "var"),
                "LABELAPP_PORT": str(port),
                "DATABASE_URL": addresses.database_url,
                "REDIS_URL": addresses.redis_url,
                "WEB_WORKERS": str(workers),
                "WEB_THREADS": str(threads),
                "THROTTLE_SUBMIT": "1000000/minute",
                "DJANGO_SETTINGS_MODULE": "labelapp.settings",
                "LOG_LEVEL": "WARNING",
            }
            (folder / "var").mkdir()
            for command in (["migrate", "-v0"], ["collectstatic", "--noinput", "-v0"]):
                manage(environment, *command)
            try:
                yield Site(f"http://127.0.0.1:{port}", addresses.database_url, environment)
            finally:
                servers.stop()


def manage(environment: dict[str, str], *arguments: str) -> str:
    """One `manage.py` command; what it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


@contextmanager
def web_server(found: Site) -> Iterator[subprocess.Popen[bytes]]:
    """gunicorn as the product starts it, until the block ends."""
    command = ("gunicorn", "--config", "python:labelapp.webserver", "labelapp.wsgi:application")
    server = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env=found.environment, start_new_session=True
    )
    try:
        wait_for(f"{found.url}/healthz")
        yield server
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(url: str, seconds: float = 60.0) -> None:
    """Until something answers there."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"{url} does not answer.") from None
            time.sleep(0.2)


def load(database_url: str, prompts: int, k: int, overlap: int) -> None:
    """One open round with ``prompts`` ranking tasks of ``k`` answers, copied in bulk.

    Rows are like those that ``bench.labeling_cast`` made through Django, but for what is named
    here. Triggers (foreign keys among them) are off meanwhile: the rows are right as they are.
    """
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        like = {table: _like(cursor, f"labelapp_{table}") for table in ("prompt", "task", "sample")}
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(f"TRUNCATE {', '.join(f'labelapp_{table}' for table in EMPTIED)} CASCADE")
        cursor.execute(
            "UPDATE labelapp_round SET k = %s, overlap = %s, rankings_wanted = %s",
            [k, overlap, prompts],
        )
        numbers = range(1, prompts + 1)
        _copy(
            cursor,
            "labelapp_prompt",
            like["prompt"],
            (
                {"id": i, "text": f"{_text(i, 40)} ({i})", "fingerprint": f"{i:064x}"}
                for i in numbers
            ),
        )
        _copy(
            cursor,
            "labelapp_task",
            like["task"] | {"overlap": overlap, "taken": 0, "submitted": 0, "priority": 0},
            ({"id": i, "prompt_id": i, "position": i - 1} for i in numbers),
        )
        _copy(
            cursor,
            "labelapp_sample",
            like["sample"],
            (
                {"id": i * k + j, "prompt_id": i, "task_id": i, "index": j}
                | {"text": _text(i + 7 * j, 30)}
                for i in numbers
                for j in range(k)
            ),
        )
        for table in like:
            cursor.execute(
                f"SELECT setval('labelapp_{table}_id_seq', (SELECT max(id) FROM labelapp_{table}))"
            )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


EMPTIED = (
    "task", "prompt", "sample", "assignment", "ranking", "rankingplace", "standing",
)  # fmt: skip


def _text(seed: int, words: int) -> str:
    return " ".join(WORDS[(seed * (n + 3) + n) % len(WORDS)] for n in range(words))


def _like(cursor: Any, table: str) -> dict[str, object]:
    """A row of the table as text, without what the database generates."""
    columns = [
        name
        for (name,) in cursor.execute(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = %s AND is_generated = 'NEVER'",
            [table],
        )
    ]
    listed = ", ".join(f'"{name}"::text' for name in columns)
    row = cursor.execute(f"SELECT {listed} FROM {table} LIMIT 1").fetchone()
    return dict(zip(columns, row, strict=True))


def _copy(
    cursor: Any, table: str, like: dict[str, object], rows: Iterable[dict[str, object]]
) -> None:
    listed = ", ".join(f'"{name}"' for name in like)
    with cursor.copy(f"COPY {table} ({listed}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(list((like | row).values()))
