"""Runs several processes together: prefixed output, restarts after a kill, and an end that leaves nobody behind."""

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO

import psutil

from labelapp.processes import Process

RESTARTS = 5
"""More ends of one process than this within RESTART_WINDOW seconds, and the whole gives up."""
RESTART_WINDOW = 60.0
KILL_SECONDS = 10.0
MARK = "LABELAPP_SUPERVISED_BY"
"""In the environment of everything we start, so that it is found again at the end."""


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen[bytes] | None = None
    ends: deque[float] = field(default_factory=deque)
    rests_until: float = 0.0


class Supervisor:
    """Starts processes in sessions of their own and watches them until `stop` is called or one cannot be kept up."""

    def __init__(self, processes: tuple[Process, ...], output: IO[str] = sys.stdout) -> None:
        self.children = [_Child(process) for process in processes]
        self.output = output
        self.width = max(len(process.name) for process in processes)
        self._wanted = threading.Event()
        self._wanted.set()
        self._printing = threading.Lock()
        self._mark = f"{os.getpid()}-{secrets.token_hex(8)}"

    def stop(self) -> None:
        """Ask for the end; safe in a signal handler."""
        self._wanted.clear()

    def start(self) -> None:
        """Start every process."""
        for child in self.children:
            self._start(child)

    def watch(self, every: float = 0.5) -> str | None:
        """One look: restart what ended; the reason to give up, or None. Sleeps `every` seconds first."""
        time.sleep(every)
        for child in self.children:
            if child.popen is None or child.popen.poll() is None:
                continue
            now = time.monotonic()
            if child.rests_until:
                if now >= child.rests_until:
                    child.rests_until = 0.0
                    self._start(child)
                continue
            child.ends.append(now)
            while now - child.ends[0] > RESTART_WINDOW:
                child.ends.popleft()
            self.say(child.process.name, f"ended with {child.popen.returncode}")
            if len(child.ends) > RESTARTS and not child.process.needed:
                self.say(child.process.name, f"is tried again in {RESTART_WINDOW:g} s")
                child.rests_until = now + RESTART_WINDOW
                self._end([child])
                continue
            if len(child.ends) > RESTARTS:
                return f"{child.process.name} ends again and again; its last lines are above."
            self._end([child])
            self._start(child)
        return None

    @property
    def wanted(self) -> bool:
        """False once `stop` was called."""
        return self._wanted.is_set()

    def end(self) -> None:
        """End every process and all that they started: ask, wait as long as each may take, then kill."""
        self._end(self.children)
        deadline = time.monotonic() + KILL_SECONDS
        while (left := self._descendants()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)

    def say(self, name: str, line: str) -> None:
        """Print one line under a process's name."""
        with self._printing:
            self.output.write(f"{name:<{self.width}} | {line}\n")
            self.output.flush()

    def _start(self, child: _Child) -> None:
        popen = subprocess.Popen(
            child.process.arguments,
            env=os.environ | {MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        child.popen = popen
        threading.Thread(
            target=self._print, args=(child.process.name, popen.stdout), daemon=True
        ).start()

    def _print(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self.say(name, line.decode(errors="replace").rstrip("\n"))

    def _descendants(self) -> list[psutil.Process]:
        """All that our processes started, in whatever session and whoever their parent is now: the mark is inherited."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark and _runs(process):
                    found.append(process)
        return found

    def _end(self, children: list[_Child]) -> None:
        running = [child for child in children if child.popen is not None]
        for child in running:
            _signal_group(child, signal.SIGTERM)
        for child in running:
            assert child.popen is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.popen.wait(child.process.stop_seconds)
        for child in running:
            assert child.popen is not None
            _signal_group(child, signal.SIGKILL)  # what is left of its session
            child.popen.wait()


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In a new child: ask the kernel to end it when this program is killed (Linux)."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _signal_group(child: _Child, number: signal.Signals) -> None:
    assert child.popen is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.popen.pid, number)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
