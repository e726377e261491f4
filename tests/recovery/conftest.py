"""A tiny model behind a real project, and the means to catch a stage in the act."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection

from labelapp.models import Project, Run
from labelapp.run_logs import metrics_lines
from labelapp.store import model_folder
from tests.factories import make_project, make_version
from tests.models import tiny_model

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in Hugging Face format."""
    return tiny_model("llama", tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def tiny_project(
    settings: Any, store: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project whose current policy is the tiny model."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    project = make_project()
    version = make_version(project, state="current")
    shutil.copytree(tiny_folder, model_folder(version.run_id))
    return project


def stage_processes(of: int | None = None) -> list[psutil.Process]:
    """The trainer's processes below this process, or below another."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if "trainer" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(true: Callable[[], Any], seconds: float = 60.0, what: str = "it") -> Any:
    """Wait for something to become true; its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {seconds:.0f} seconds")


@contextmanager
def stood_still() -> Iterator[None]:
    """The stage's processes do nothing until they were asked to stop.

    However quick the stage and however slow the machine, the request comes before its end.
    """
    children = stage_processes()
    assert children
    for child in children:
        child.suspend()
    try:
        yield
        for child in children:
            asked = partial(_is_pending, child.pid, signal.SIGTERM)
            eventually(asked, what="the request to stop")
    finally:
        for child in children:
            child.resume()


def _is_pending(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = [line.split()[1] for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(int(mask, 16) >> (number - 1) & 1 for mask in pending)


@contextmanager
def meanwhile(run: Run, act: Callable[[], Any], steps: int = 1) -> Iterator[None]:
    """While the block carries a run out, ``act`` as soon as it has logged so many steps."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            eventually(lambda: len(metrics_lines(run.pk)) >= steps, what=f"step {steps}")
            act()
        except BaseException as error:  # told by the test's own thread
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]
