"""Label Studio 1.23.2 beside ours: an environment, a database and a server of its own.

Two uwsgi processes of four threads, PostgreSQL as ours has it, durable; tasks are made in bulk
outside the clock. Where uwsgi cannot be built, gunicorn serves it with as many processes and threads.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.labeling_site import wait_for
from bench.peer import SCRIPTS, environment
from labelapp.embedded import EmbeddedServers

LABEL_STUDIO = ("label-studio==1.23.2", "setuptools")
UWSGI = "uwsgi==2.0.28"
GUNICORN = "gunicorn==27.0.1"


class Peer(NamedTuple):
    """Where it answers, its folder, and what its processes need to know."""

    url: str
    folder: Path
    python: Path
    server: str  # uwsgi, or gunicorn
    environment: dict[str, str]


@contextmanager
def label_studio(work: Path, port: int) -> Iterator[Peer]:
    """Installed and migrated, without a server yet."""
    python, server = _installed(work)
    folder = next(python.parent.parent.glob("lib/python3*/site-packages/label_studio"))
    with tempfile.TemporaryDirectory(prefix="label-studio-", ignore_cleanup_errors=True) as name:
        data = Path(name)
        data.chmod(0o755)  # PostgreSQL may run as a user of its own
        servers = EmbeddedServers(data / "servers", durable=True)
        with servers.use() as addresses:
            url = urlsplit(addresses.database_url)
            variables = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("LABELAPP_", "DJANGO_", "PYTHON"))
            } | {
                "DJANGO_DB": "default",
                "DJANGO_SETTINGS_MODULE": "core.settings.label_studio",
                "POSTGRE_NAME": url.path.lstrip("/"),
                "POSTGRE_USER": str(url.username),
                "POSTGRE_PASSWORD": str(url.password),
                "POSTGRE_HOST": str(url.hostname),
                "POSTGRE_PORT": str(url.port),
                "LABEL_STUDIO_BASE_DATA_DIR": str(data / "data"),
                "SECRET_KEY": "for a measurement",
                "LOG_LEVEL": "ERROR",
                "COLLECT_ANALYTICS": "0",
                "LATEST_VERSION_CHECK": "0",
            }
            found = Peer(f"http://127.0.0.1:{port}", folder, python, server, variables)
            try:
                _run(found, "manage.py", "migrate", "-v0")
                yield found
            finally:
                servers.stop()


def _installed(work: Path) -> tuple[Path, str]:
    """Its interpreter, and the server that its environment has."""
    if shutil.which("gcc") or shutil.which("cc"):
        try:
            python = environment(work, "label-studio-1.23.2", (*LABEL_STUDIO, UWSGI))
            return python, "uwsgi"
        except SystemExit as error:
            print(f"{error}\nuwsgi could not be built; gunicorn instead.", file=sys.stderr)
    return environment(work, "label-studio-1.23.2", (*LABEL_STUDIO, GUNICORN)), "gunicorn"


def _run(found: Peer, *arguments: str) -> str:
    """A script in its environment; what it printed."""
    done = subprocess.run(
        [str(found.python), *arguments],
        cwd=found.folder,
        env=found.environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def cast(found: Peer, tasks: int, k: int, overlap: int, labelers: int) -> list[dict[str, str]]:
    """Tokens of the labelers of a fresh project with so many tasks."""
    numbers = map(str, (tasks, k, overlap, labelers))
    said = _run(found, str(SCRIPTS / "label_studio_cast.py"), *numbers)
    made = json.loads(said.splitlines()[-1])
    return [{"token": token, "project": str(made["project"])} for token in made["tokens"]]


@contextmanager
def peer_server(found: Peer, processes: int, threads: int) -> Iterator[None]:
    """Its server until the block ends."""
    address = found.url.removeprefix("http://")
    if found.server == "uwsgi":
        command = [
            str(found.python.parent / "uwsgi"),
            *("--http-socket", address, "--module", "core.wsgi:application"),
            *("--processes", str(processes), "--threads", str(threads), "--enable-threads"),
            *("--master", "--die-on-term", "--disable-logging", "--buffer-size", "65535"),
            *("--post-buffering", "65536"),  # else an answer before the body is read resets
            *("--need-app", "--pythonpath", str(found.folder), "--listen", "100"),
        ]
    else:
        command = [
            *(str(found.python), "-m", "gunicorn", "core.wsgi:application", "--bind", address),
            *("--workers", str(processes), "--threads", str(threads)),
        ]
    server = subprocess.Popen(
        command,
        cwd=found.folder,
        env=found.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"{found.url}/health", 180.0)
        yield
    finally:
        server.terminate()
        server.wait(timeout=60)
