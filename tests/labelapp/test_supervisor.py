"""The supervisor of `make demo`, with small real processes."""

import io
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from labelapp.processes import Process
from labelapp.supervisor import RESTARTS, Supervisor

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{__import__('os').getpid()} {child.pid}")
time.sleep(600)
"""


def module(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules written here can be run with `python -m`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def wait_for(path: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return [int(part) for part in path.read_text().split()]
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_the_end_takes_along_a_deaf_process_and_its_child_in_another_session(folder: Path) -> None:
    module(folder, "deaf_one", STUBBORN)
    note = folder / "pids"
    supervisor = Supervisor(
        (Process("deaf", ("deaf_one", str(note)), stop_seconds=1),), io.StringIO()
    )
    supervisor.start()
    pids = wait_for(note)
    assert all(runs(pid) for pid in pids)
    supervisor.end()
    assert not any(runs(pid) for pid in pids)


@pytest.mark.slow
def test_a_killed_process_is_started_again(folder: Path) -> None:
    module(folder, "deaf_two", STUBBORN)
    note = folder / "pids"
    supervisor = Supervisor(
        (Process("deaf", ("deaf_two", str(note)), stop_seconds=1),), io.StringIO()
    )
    supervisor.start()
    first = wait_for(note)[0]
    note.unlink()
    os.kill(first, signal.SIGKILL)
    assert supervisor.watch(every=0.5) is None
    second = wait_for(note)[0]
    supervisor.end()
    assert second != first


@pytest.mark.slow
def test_a_process_that_never_stays_up_ends_it_all_with_a_sentence(folder: Path) -> None:
    module(folder, "hasty", "print('no such setting')")
    output = io.StringIO()
    supervisor = Supervisor((Process("hasty", ("hasty",), stop_seconds=1),), output)
    supervisor.start()
    deadline = time.monotonic() + 60
    reason = None
    while reason is None and time.monotonic() < deadline:
        reason = supervisor.watch(every=0.1)
    supervisor.end()
    assert reason is not None
    assert reason.startswith("hasty ends again and again")
    assert output.getvalue().count("ended with 0") == RESTARTS + 1
    assert "hasty | no such setting" in output.getvalue()


@pytest.mark.slow
def test_a_process_that_is_not_needed_rests_and_ends_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelapp.supervisor.RESTARTS", 1)
    monkeypatch.setattr("labelapp.supervisor.RESTART_WINDOW", 2.0)
    module(folder, "optional", "print('no model')")
    output = io.StringIO()
    process = Process("optional", ("optional",), stop_seconds=1, needed=False)
    supervisor = Supervisor((process,), output)
    supervisor.start()
    deadline = time.monotonic() + 30
    while "is tried again in 2 s" not in output.getvalue() and time.monotonic() < deadline:
        assert supervisor.watch(every=0.1) is None
    rested = output.getvalue().count("ended with 0")
    assert rested == 2
    while output.getvalue().count("ended with 0") == rested and time.monotonic() < deadline:
        assert supervisor.watch(every=0.1) is None
    supervisor.end()
    assert output.getvalue().count("ended with 0") > rested
