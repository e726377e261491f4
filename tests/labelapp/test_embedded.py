"""The embedded servers: shared, found again after a crash, gone when nobody needs them."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from labelapp import embedded
from labelapp.embedded import EmbeddedServers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def servers(server_folder: Path) -> Iterator[EmbeddedServers]:
    pair = EmbeddedServers(server_folder / "embedded", durable=True)
    yield pair
    pair.stop()


def value(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_both_answer_on_loopback_behind_a_password(servers: EmbeddedServers) -> None:
    found = servers.acquire()
    assert "18." in str(value(found.database_url, "SHOW server_version"))
    assert value(found.database_url, "SHOW listen_addresses") == "127.0.0.1"
    assert value(found.database_url, "SHOW fsync") == "on"
    wrong = found.database_url.replace(":", ":wrong", 2).replace(":wrong//", "://")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(wrong)
    with redis.Redis.from_url(found.redis_url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    port = found.redis_url.rsplit(":", 1)[1].split("/")[0]
    with (
        redis.Redis(host="127.0.0.1", port=int(port)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    servers.release()


@pytest.mark.slow
def test_the_file_with_the_password_is_for_its_owner_alone(servers: EmbeddedServers) -> None:
    servers.start()
    mode = (servers.folder / "servers.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.slow
def test_killed_servers_come_back_at_the_same_address_with_their_data(
    servers: EmbeddedServers,
) -> None:
    found = servers.start()
    value(found.database_url, "CREATE TABLE kept AS SELECT 7 AS number")
    with redis.Redis.from_url(found.redis_url) as client:
        client.set("kept", "8")
        time.sleep(1.2)  # the append-only file is written every second
    killed = servers.postgres_pid(), servers.valkey_pid()
    for pid in killed:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    servers.keep_up()
    assert servers.start() == found
    assert value(found.database_url, "SELECT number FROM kept") == 7
    with redis.Redis.from_url(found.redis_url) as client:
        assert client.get("kept") == b"8"


@pytest.mark.slow
def test_a_pid_file_that_names_another_program_does_not_stop_the_start(
    servers: EmbeddedServers,
) -> None:
    found = servers.start()
    servers.stop()
    for place in ("postgres/postmaster.pid", "valkey/valkey.pid"):
        (servers.folder / place).write_text(f"{os.getpid()}\n")
    assert servers.start() == found
    assert value(found.database_url, "SELECT 1") == 1


@pytest.mark.slow
def test_a_half_made_data_folder_is_made_anew(servers: EmbeddedServers) -> None:
    half = servers.folder / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert value(servers.start().database_url, "SELECT 1") == 1


@pytest.mark.slow
def test_the_last_user_stops_the_servers(servers: EmbeddedServers) -> None:
    other = EmbeddedServers(servers.folder)
    assert servers.acquire() == other.acquire()
    pids = servers.postgres_pid(), servers.valkey_pid()
    servers.release()
    assert (other.postgres_pid(), other.valkey_pid()) == pids
    other.release()
    assert (other.postgres_pid(), other.valkey_pid()) == (None, None)
    assert pids[1] is not None
    psutil.wait_procs([child for child in psutil.Process().children() if child.pid == pids[1]], 5)
    assert not psutil.pid_exists(pids[1])  # not even as a zombie of the one that started it


@pytest.mark.slow
def test_a_killed_user_leaves_no_lock(servers: EmbeddedServers) -> None:
    script = (
        "import sys, time; from pathlib import Path; from labelapp.embedded import EmbeddedServers\n"
        "EmbeddedServers(Path(sys.argv[1])).acquire(); print('has it', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(servers.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        process.kill()
    assert servers.postgres_pid() is not None
    servers.acquire()
    servers.release()
    assert servers.postgres_pid() is None


@pytest.mark.slow
def test_a_command_line_finds_the_servers_of_a_running_one(server_folder: Path) -> None:
    pair = EmbeddedServers(embedded.folder(server_folder), durable=False)
    environment = {
        name: text for name, text in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")
    } | {"LABELAPP_VAR": str(server_folder)}
    script = (
        "from django.conf import settings as s; print(s.DATABASES['default']['PORT'], s.REDIS_URL)"
    )
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", script]
    with pair.use() as found:
        pid = pair.postgres_pid()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        port, redis_url = done.stdout.split()
        assert f":{port}/" in found.database_url
        assert redis_url == found.redis_url
        assert pair.postgres_pid() == pid
    assert pair.postgres_pid() is None
