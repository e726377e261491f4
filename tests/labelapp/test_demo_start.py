"""`make demo`'s launcher with a tiny model: up, killed in part, ended, and started again with the same data."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.models import tiny_model

ROOT = Path(__file__).resolve().parents[2]
UP_SECONDS = 240
OUTSIDE = ("DATABASE_URL", "REDIS_URL", "LABELAPP_MODE", "DJANGO_SETTINGS_MODULE")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(port: int) -> dict[str, dict[str, object]]:
    """The parts that /readyz names; empty where nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return dict(json.load(answer)["parts"])
    except urllib.error.HTTPError as error:
        return dict(json.load(error)["parts"])
    except OSError:
        return {}


def wait_until_ready(port: int, process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        parts = ready(port)
        if parts and all(part["ok"] for part in parts.values()):
            return
        assert process.poll() is None, log.read_text()[-4000:]
        time.sleep(0.5)
    raise AssertionError(f"not ready: {ready(port)}\n{log.read_text()[-4000:]}")


@contextmanager
def demo(var: Path, model: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running, ready demo; killed with all its children if a test fails."""
    port = free_port()
    environment = {name: text for name, text in os.environ.items() if name not in OUTSIDE} | {
        "LABELAPP_VAR": str(var),
        "LABELAPP_PORT": str(port),
        "LABELAPP_BASE_MODEL": str(model),
        "LABELAPP_TRAINING": "test",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "labelapp.launch"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            wait_until_ready(port, process, log)
            yield process, port
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def everything_of(var: Path, process: subprocess.Popen[str]) -> dict[int, str]:
    """All processes below the launcher, and the servers beside it."""
    found = {one.pid: one.name() for one in psutil.Process(process.pid).children(recursive=True)}
    for place in ("postgres/postmaster.pid", "valkey/valkey.pid"):
        pid = int((var / "embedded" / place).read_text().split()[0])
        found[pid] = psutil.Process(pid).name()
    return found


def child(process: subprocess.Popen[str], words: str, *, other_than: int = 0) -> int:
    """The launcher's child with these words in its command line, waited for."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for one in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                if one.pid != other_than and words in " ".join(one.cmdline()):
                    return one.pid
        time.sleep(0.2)
    raise AssertionError(f"no child with {words}")


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def sign_ins(text: str) -> list[str]:
    return re.findall(r"^(?:admin|researcher|labeler)\s+\w+\s+\S{10,}$", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_demo_starts_heals_ends_whole_and_goes_on(server_folder: Path) -> None:
    model, var, log = (server_folder / name for name in ("model", "var", "log"))
    tiny_model("llama", model)

    with demo(var, model, log) as (process, port):
        first = sign_ins(log.read_text())
        assert len(first) == 5
        assert f"open http://127.0.0.1:{port}/" in log.read_text()
        killed = child(process, "--queues gpu"), everything_of(var, process)
        os.kill(killed[0], signal.SIGKILL)
        postgres = next(pid for pid, name in killed[1].items() if name == "postgres")
        os.kill(postgres, signal.SIGKILL)
        child(process, "--queues gpu", other_than=killed[0])
        wait_until_ready(port, process, log)
        everything = everything_of(var, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-4000:]
        left = {pid: name for pid, name in (killed[1] | everything).items() if runs(pid)}
        assert not left

    with demo(var, model, log) as (process, port):
        assert sign_ins(log.read_text()) == first
        assert "Made the demo project" not in log.read_text()
        everything = everything_of(var, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not [pid for pid in everything if runs(pid)]
    for name in ("secret-key", "pseudonym-key", "demo-signins.txt", "embedded/servers.json"):
        assert (var / name).stat().st_mode & 0o777 == 0o600, name
