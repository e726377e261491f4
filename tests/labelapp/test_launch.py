"""`make demo` before it starts anything: what is wrong is said in one sentence."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from labelapp import launch

ROOT = Path(__file__).resolve().parents[2]


def run_launch(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LABELAPP_VAR": str(folder)} | variables
    command = [sys.executable, "-m", "labelapp.launch"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_port_in_use_gets_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_launch(tmp_path, LABELAPP_PORT=str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"labelapp: port {port} cannot be used (Address already in use)")
    assert "Traceback" not in done.stderr


def test_a_port_that_is_no_number_gets_a_sentence(tmp_path: Path) -> None:
    done = run_launch(tmp_path, LABELAPP_PORT="http")
    assert (done.returncode, "must be a number from 1 to 65535" in done.stderr) == (1, True)


def test_a_full_disk_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(launch.LaunchError, match="are free where .* lies; the demo needs"):
        launch.check_disk(tmp_path, needed_gib=1e9)


def test_a_disk_that_takes_nothing_gets_a_sentence(tmp_path: Path) -> None:
    done = run_launch(tmp_path, LABELAPP_VAR="/proc/labelapp")
    assert done.returncode == 1
    assert "cannot write to /proc/labelapp" in done.stderr


def test_a_second_demo_with_the_same_data_gets_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with (tmp_path / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_launch(tmp_path, LABELAPP_PORT=port)
    assert done.returncode == 1
    assert "a demo already runs with the data in" in done.stderr


def test_a_target_that_does_not_exist_gets_a_sentence() -> None:
    done = subprocess.run(["make", "demonstrate"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "There is no target 'demonstrate' here" in done.stdout
    assert "make demo " in done.stdout


@pytest.mark.parametrize(("answer", "stays"), [("no\n", True), ("", True), ("yes\n", False)])
def test_reset_asks_and_keeps_converted_models(tmp_path: Path, answer: str, stays: bool) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "models").mkdir()
    done = subprocess.run(
        ["make", "demo-reset"],
        cwd=ROOT,
        env=os.environ | {"LABELAPP_VAR": str(tmp_path)},
        input=answer,
        capture_output=True,
        text=True,
    )
    assert "Type yes to go on" in done.stdout
    assert (tmp_path / "store").exists() is stays
    assert (tmp_path / "models").exists()
