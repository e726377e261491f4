"""Runs several processes together: prefixed output, restarts after a kill, and an end that leaves nobody behind."""

import contextlib
import ctypes
import os
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


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen[bytes] | None = None
    ends: deque[float] = field(default_factory=deque)


class Supervisor:
    """Starts processes in sessions of their own and watches them until `stop` is called or one cannot be kept up."""

    def __init__(self, processes: tuple[Process, ...], output: IO[str] = sys.stdout) -> None:
        self.children = [_Child(process) for process in processes]
        self.output = output
        self.width = max(len(process.name) for process in processes)
        self._wanted = threading.Event()
        self._wanted.set()
        self._printing = threading.Lock()
        self._known: dict[int, psutil.Process] = {}

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
        self._remember()
        for child in self.children:
            if child.popen is None or child.popen.poll() is None:
                continue
            now = time.monotonic()
            child.ends.append(now)
            while now - child.ends[0] > RESTART_WINDOW:
                child.ends.popleft()
            self.say(child.process.name, f"ended with {child.popen.returncode}")
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
        self._remember()
        self._end(self.children)
        survivors = [process for process in self._known.values() if _runs(process)]
        for process in survivors:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(survivors, timeout=5)

    def say(self, name: str, line: str) -> None:
        """Print one line under a process's name."""
        with self._printing:
            self.output.write(f"{name:<{self.width}} | {line}\n")
            self.output.flush()

    def _start(self, child: _Child) -> None:
        popen = subprocess.Popen(
            child.process.arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        child.popen = popen
        self._known[popen.pid] = psutil.Process(popen.pid)
        threading.Thread(
            target=self._print, args=(child.process.name, popen.stdout), daemon=True
        ).start()

    def _print(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self.say(name, line.decode(errors="replace").rstrip("\n"))

    def _remember(self) -> None:
        """Note every descendant while its parents live: orphans could not be found later."""
        for child in self.children:
            if child.popen is None:
                continue
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(child.popen.pid).children(recursive=True):
                    self._known[process.pid] = process
        self._known = {pid: process for pid, process in self._known.items() if _runs(process)}

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
