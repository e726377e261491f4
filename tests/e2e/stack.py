"""The whole product as processes of its own, for tests that drive it from outside."""

import io
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from labelapp.processes import PROCESSES
from labelapp.supervisor import Supervisor

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(question: Callable[[], T], *, seconds: float, what: str) -> T:
    """The first true answer; AssertionError naming ``what`` was waited for, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.3)


@contextmanager
def stack(environment: Mapping[str, str]) -> Iterator[str]:
    """Web, worker, GPU worker and beat (and serve, where its address is set) under the demo's own supervisor; gives the address."""
    port = free_port()
    before = dict(os.environ)
    os.environ.update(dict(environment) | {"LABELAPP_PORT": str(port), "PYTHONUNBUFFERED": "1"})
    output = io.StringIO()
    served = bool(os.environ.get("LABELAPP_SERVE_URL"))
    wanted = tuple(p for p in PROCESSES if served or p.name != "serve")
    supervisor = Supervisor(wanted, output=output)
    supervisor.start()
    ended: list[str] = []

    def keep_up() -> None:
        while supervisor.wanted:
            reason = supervisor.watch()
            if reason:
                ended.append(reason)
                return

    watcher = threading.Thread(target=keep_up, daemon=True)
    watcher.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ended or _answers(f"{url}/healthz"), seconds=60, what="the web server")
        assert not ended, ended
        yield url
    except BaseException:
        sys.stderr.write(output.getvalue()[-20_000:])
        raise
    finally:
        supervisor.stop()
        watcher.join(5)
        supervisor.end()
        os.environ.clear()
        os.environ.update(before)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status) == 200
    except OSError:
        return False
