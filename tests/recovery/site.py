"""A site of its own for one test module: servers that may be killed, and the product's own processes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from django.core.management import call_command
from django.db import connection

from labelapp.embedded import EmbeddedServers
from labelapp.environment import database
from labelapp.processes import PROCESSES
from tests.recovery.conftest import ROOT, eventually, stage_processes


class Site:
    """Embedded servers, a store, and workers started by the commands of the process list."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self.servers = EmbeddedServers(folder / "servers", durable=durable)
        self.store = folder / "store"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start one process of the list; what it says goes to a log in the folder."""
        (process,) = [process for process in PROCESSES if process.name == name]
        with (self.folder / f"{name}.log").open("ab") as log:
            popen = subprocess.Popen(
                process.arguments,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(popen)
        return popen

    @property
    def environment(self) -> dict[str, str]:
        """What its processes need to find each other."""
        addresses = self.servers.start()
        return os.environ | {
            "DATABASE_URL": addresses.database_url,
            "REDIS_URL": addresses.redis_url,
            "LABELAPP_STORE": str(self.store),
            "LABELAPP_VAR": str(self.folder / "var"),
            "LABELAPP_TRAINING": "test",
            "OMP_NUM_THREADS": "1",
        }

    def log(self, name: str) -> str:
        """What the processes of that name have said."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def kill_database(self) -> None:
        """SIGKILL to PostgreSQL's main process, and wait until all of it is gone."""
        pid = self.servers.postgres_pid()
        assert pid is not None
        whole = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs(whole, timeout=30)
        connection.close()

    def stop(self) -> None:
        """End every process that was started here."""
        for popen in self.running:
            if popen.poll() is None:
                for child in stage_processes(popen.pid):
                    child.kill()
                popen.kill()
            popen.wait()
        self.running.clear()


@contextmanager
def site_in(folder: Path, settings: Any, *, durable: bool) -> Iterator[Site]:
    """A migrated site; Django's own connection in this process points at it meanwhile."""
    site = Site(folder, durable=durable)
    addresses = site.servers.acquire()
    before = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(database(addresses.database_url))
    settings.LABELAPP_STORE = site.store
    site.store.mkdir()
    try:
        call_command("migrate", verbosity=0)
        yield site
    finally:
        site.stop()
        connection.close()
        connection.settings_dict.clear()
        connection.settings_dict.update(before)
        site.servers.release()


def stage_of(worker: subprocess.Popen[bytes], stage: str, seconds: float = 180.0) -> psutil.Process:
    """The process of that stage below a worker, as soon as it is there."""

    def found() -> psutil.Process | None:
        for process in stage_processes(worker.pid):
            if stage in process.cmdline():
                return process
        return None

    process: psutil.Process = eventually(found, seconds, f"a {stage} process")
    return process
