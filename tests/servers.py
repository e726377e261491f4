"""The real PostgreSQL and Valkey that every test uses, and the environment that points at them.

One pair of servers under `var/test` serves all test runs on the machine, side by side: each run has databases of its
own, named by its process id, and each process its own number in Valkey. DATABASE_URL and REDIS_URL, when set, are
used instead.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psutil
import psycopg
import redis

from labelapp.embedded import EmbeddedServers

ROOT = Path(__file__).resolve().parent.parent
FROM_OUTSIDE = (
    "ALLOWED_HOSTS",
    "CSRF_TRUSTED_ORIGINS",
    "LABELAPP_BASE_MODEL",
    "LABELAPP_BIND",
    "LABELAPP_PORT",
    "LABELAPP_PRETRAIN_TEXT",
    "LABELAPP_STORE",
    "LEASE_SECONDS",
    "MIN_DEMONSTRATIONS",
    "MIN_RANKINGS",
    "PSEUDONYM_KEY",
    "PYTHONDONTWRITEBYTECODE",  # or each of some hundred children compiles what it imports
    "SECRET_KEY",
    "TRUST_PROXY_TLS",
)
"""Variables of the caller that would change what tests see, or how long they take."""
VALKEY_NUMBERS = 1000


def prepare() -> None:
    """Set the environment of this test process; the first process of a run starts the servers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for name in FROM_OUTSIDE:
            os.environ.pop(name, None)
        os.environ["LABELAPP_MODE"] = "development"
        os.environ["LABELAPP_TRAINING"] = "test"
        os.environ["LABEL_GRACE_SECONDS"] = (
            "0"  # a label counts at once, but where a test says otherwise
        )
        _start()
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are the other processes'
    os.environ["LABELAPP_VAR"] = _own_folder()
    os.environ["REDIS_URL"] = _own_number(os.environ["REDIS_URL"])


def _start() -> None:
    if os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"):
        return
    servers = EmbeddedServers(ROOT / "var" / "test", durable=False)
    found = servers.acquire()
    owner = os.getpid()
    atexit.register(lambda: servers.release() if os.getpid() == owner else None)
    _drop_leftovers(found.database_url)
    os.environ["DATABASE_URL"] = f"{found.database_url}_{owner}"
    os.environ["REDIS_URL"] = found.redis_url


def _drop_leftovers(url: str) -> None:
    """Remove the databases of test runs that were killed."""
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.execute(
            "SELECT datname FROM pg_database WHERE datname ~ '^test_labelapp_'"
        )
        for (name,) in names.fetchall():
            pid = name.split("_")[2]
            if not (pid.isdigit() and psutil.pid_exists(int(pid))):
                connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _own_folder() -> str:
    folder = tempfile.mkdtemp(prefix="labelapp-test-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _own_number(url: str) -> str:
    """The same server, another database number; emptied first."""
    base = url.rsplit("/", 1)[0]
    with redis.Redis.from_url(f"{base}/0") as client:
        number = 1 + int(client.incr("labelapp-test-runs")) % VALKEY_NUMBERS
    with redis.Redis.from_url(f"{base}/{number}") as client:
        client.flushdb()
    return f"{base}/{number}"
