"""Stages that are killed and go on: their settings, the killing, and the comparison with an unbroken run."""

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

from tests.trainer.children import own_threads, run_children
from trainer.__main__ import main
from trainer.records import read_manifest

KILLED = """
import os, signal, sys
import trainer.runtime
from trainer.__main__ import main

place, number = sys.argv.pop(1), int(sys.argv.pop(1))
owner, name = {
    "step": (trainer.runtime.Optimiser, "step"), "rename": (trainer.runtime.os, "replace")
}[place]
real, calls = getattr(owner, name), 0

def counted(*args, **kwargs):
    global calls
    if place != "rename" or str(args[1]).endswith(".pt"):
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(owner, name, counted)
sys.exit(main(sys.argv[1:]))
"""


def carried_out(found: dict[str, dict[str, Any]], root: Path) -> dict[str, dict[str, Any]]:
    """Run every stage unbroken, in this process; its settings then say where."""
    for stage, settings in found.items():
        assert main(command(stage, config_file(settings, root / stage))) == 0
        settings["unbroken"] = root / stage
    return found


def config_file(settings: dict[str, Any], out: Path) -> Path:
    out.mkdir(exist_ok=True)
    plain = {k: v for k, v in settings.items() if k != "unbroken"} | {"out": str(out)}
    path = out / "config.json"
    path.write_text(json.dumps(plain))
    return path


def command(stage: str, config: Path) -> list[str]:
    """The stage is the first word of its name here."""
    return [stage.split()[0], "--config", str(config)]


def run_killed(stage: str, config: Path, place: str, number: int) -> int:
    """Run a child that kills itself at the ``number``-th visit of ``place``; its exit status."""
    arguments = [place, str(number), *command(stage, config)]
    (ended,) = run_children(KILLED, arguments, [own_threads()])
    return ended.returncode


def weights(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def figures(out: Path) -> list[dict[str, Any]]:
    """Logged lines without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = {"tokens_per_second", "episodes_per_second"}
    return [
        {"step": line["step"]} | {k: v for k, v in line["values"].items() if k not in clock}
        for line in lines
    ]


def assert_as_unbroken(out: Path, unbroken: Path) -> None:
    assert weights(out) == weights(unbroken)
    assert figures(out) == figures(unbroken)
    assert read_manifest(out, verify=True).files == read_manifest(unbroken).files
    assert read_manifest(out).metrics["tokens"] == read_manifest(unbroken).metrics["tokens"]


def assert_goes_on_after_a_kill(
    settings: dict[str, Any],
    stage: str,
    out: Path,
    place: str,
    number: int,
    checkpoints: int | None = None,
) -> None:
    """Killed there, with so many checkpoints, the stage goes on and makes what the unbroken run made."""
    config = config_file(settings, out)
    assert run_killed(stage, config, place, number) == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    if checkpoints is not None:
        assert len(list((out / "checkpoints").glob("*.pt"))) == checkpoints
    assert main(command(stage, config)) == 0
    assert_as_unbroken(out, settings["unbroken"])
