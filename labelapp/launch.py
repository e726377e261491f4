"""What `make demo` runs: servers, migrations, the demo project and every process, until Ctrl-C.

With a command after it (`python -m labelapp.launch demo_round`), runs that management command against the stack: the
one that runs already, else one that starts with the command and ends with it.
"""

import fcntl
import os
import shutil
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

from labelapp import embedded
from labelapp.embedded import REPOSITORY, EmbeddedError, EmbeddedServers
from labelapp.processes import PREPARATIONS, PROCESSES
from labelapp.supervisor import Supervisor

FREE_GIB = 3
"""Disk space without which the demo does not start: models, checkpoints and the database need it."""
UP_SECONDS = 90


class LaunchError(RuntimeError):
    """The demo cannot start; the message says what to do."""


def main(arguments: list[str]) -> int:
    """Run the demo; the exit status. Problems are told in one sentence, without a traceback."""
    try:
        return _run(arguments)
    except (LaunchError, EmbeddedError) as error:
        print(f"labelapp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("labelapp: stopped.", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    os.environ.update({"LABELAPP_MODE": "demo", "PYTHONUNBUFFERED": "1"})
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "labelapp.settings")
    var = Path(os.environ.get("LABELAPP_VAR") or REPOSITORY / "var")
    check_python()
    check_disk(var)
    if arguments and _runs_already(var):
        print("labelapp: a demo runs already; working with it.", flush=True)
        return subprocess.call([sys.executable, str(REPOSITORY / "manage.py"), *arguments])
    port = check_port(os.environ.get("LABELAPP_PORT", "").strip() or "8000")
    signal.signal(signal.SIGTERM, _interrupt)
    with _only_one(var), _servers(var) as servers:
        for command in PREPARATIONS:
            _manage(*command, "--verbosity", "0")
        supervisor = Supervisor(PROCESSES)
        signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
        signal.signal(signal.SIGINT, lambda *_: supervisor.stop())
        try:
            return _work(supervisor, servers, port, arguments)
        finally:
            supervisor.end()
            print("labelapp: every process has ended.", flush=True)


def _work(
    supervisor: Supervisor, servers: EmbeddedServers | None, port: int, arguments: list[str]
) -> int:
    """Load the demo, start everything, keep it up; then the command's status, or 0 when asked to stop."""
    own_round = ["--without-round"] if arguments[:1] == ["demo_round"] else []
    _manage("load_demo", *own_round)
    supervisor.start()
    command: subprocess.Popen[bytes] | None = None
    deadline, up = time.monotonic() + UP_SECONDS, False
    try:
        while supervisor.wanted:
            reason = supervisor.watch()
            if reason:
                raise LaunchError(reason)
            if servers is not None:
                servers.keep_up()
            if not up and _answers(port):
                up = True
                supervisor.say(
                    "labelapp", f"open http://127.0.0.1:{port}/ (Ctrl-C ends everything)"
                )
                if arguments:
                    command = _start_command(arguments)
            elif not up and time.monotonic() > deadline:
                raise LaunchError(f"the web server did not answer within {UP_SECONDS} seconds.")
            if command is not None and command.poll() is not None:
                return command.returncode
        return 0
    finally:
        if command is not None and command.poll() is None:
            command.terminate()
            command.wait(10)


# --- checks, each with a sentence


def check_python() -> None:
    """The pinned packages are for one Python."""
    if sys.version_info[:2] != (3, 11):
        version = ".".join(map(str, sys.version_info[:3]))
        raise LaunchError(f"this is Python {version}; labelapp needs Python 3.11.")


def check_disk(var: Path, needed_gib: float = FREE_GIB) -> None:
    """Enough room for what the demo writes, and leave to write it."""
    try:
        var.mkdir(parents=True, exist_ok=True)
        probe = var / ".probe"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise LaunchError(
            f"cannot write to {var} ({error.strerror}): free some space, or set LABELAPP_VAR to another folder."
        ) from None
    free = shutil.disk_usage(var).free / 2**30
    if free < needed_gib:
        raise LaunchError(
            f"only {free:.1f} GiB are free where {var} lies; the demo needs {needed_gib:g}. "
            "Free some space, or set LABELAPP_VAR to a folder on another disk."
        )


def check_port(text: str) -> int:
    """The port as a number, if nothing listens there."""
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise LaunchError(f"LABELAPP_PORT is {text}; it must be a number from 1 to 65535.")
    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} cannot be used ({error.strerror}): stop the program that has it, "
                f"or choose another with `LABELAPP_PORT={port + 1 if port < 65535 else 8000} make demo`."
            ) from None
    return port


# --- parts


@contextmanager
def _only_one(var: Path) -> Iterator[None]:
    """One demo per `var` folder; the lock dies with its holder."""
    with (var / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError(
                f"a demo already runs with the data in {var}; end it with Ctrl-C first."
            ) from None
        yield


def _runs_already(var: Path) -> bool:
    """Whether somebody holds the lock of `_only_one`."""
    with (var / "demo.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _servers(var: Path) -> Iterator[EmbeddedServers | None]:
    """The embedded servers while the block runs; None where both addresses are set."""
    if os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"):
        yield None
        return
    print("labelapp: starting PostgreSQL and Valkey.", flush=True)
    servers = EmbeddedServers(embedded.folder(var))
    with servers.use() as found:
        embedded.publish(found)
        yield servers


def _manage(*arguments: str) -> None:
    done = subprocess.run([sys.executable, str(REPOSITORY / "manage.py"), *arguments])
    if done.returncode:
        raise LaunchError(f"`manage.py {' '.join(arguments)}` failed; what it said is above.")


def _start_command(arguments: list[str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C reaches it once, by us."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "manage.py"), *arguments], start_new_session=True
    )


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError):
        return False


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
