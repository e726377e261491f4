"""Peers in an environment of their own, run as processes that write one JSON object.

TRL 1.12.0 is the last release with PPO. A job is a JSON file that names the model folder, token
ids as the trainer encodes them, sizes and the result's place; the scripts in ``bench/peers`` do
it and import nothing of this project.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure import ROOT, Ended, Figures, run

TRL = (
    "trl==1.12.0",
    "torch==2.13.0",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "pandas",  # its PPO imports it without asking for it
)
_TRL_FOLDER = "trl-1.12.0"
SCRIPTS = ROOT / "bench" / "peers"


class Job(NamedTuple):
    """A finished job of a peer."""

    ended: Ended
    result: dict[str, Any]  # times: Unix seconds after each repetition; what else was measured


class NotInstalled(SystemExit):
    """An environment that could not be made; ``reason`` is its installer's last line."""

    def __init__(self, message: str, reason: str = "no word of why") -> None:
        super().__init__(message)
        self.reason = reason


class Trl(NamedTuple):
    """TRL, or that it is not there."""

    python: Path | None  # the interpreter of its environment
    said: str | None  # for the settings of what was measured; none if it was not asked for


def trl(args: argparse.Namespace) -> Trl:
    """TRL for a benchmark that is worth its time without it, too."""
    if args.no_peer:
        return Trl(None, None)
    try:
        return Trl(environment(args.work, _TRL_FOLDER, TRL), ", ".join(TRL))
    except NotInstalled as error:
        print(f"{error}\nOurs is measured alone; ratios will be null.", file=sys.stderr)
        return Trl(None, f"none, as {TRL[0]} could not be installed: {error.reason}")


def trl_python(work: Path) -> Path:
    """The interpreter of TRL's environment."""
    return environment(work, _TRL_FOLDER, TRL, hint="Do without it: --set peer=false.")


def environment(work: Path, name: str, packages: Iterable[str], hint: str = "") -> Path:
    """The interpreter of an environment, which is made, some minutes, where it is not there.

    The package index is the one that pip is set up with. NotInstalled if it cannot be made.
    """
    packages = tuple(packages)
    folder = work.resolve() / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = hashlib.sha256("\n".join(packages).encode()).hexdigest()
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Installing {', '.join(packages)} into {folder} (some minutes, once).", file=sys.stderr)
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode != 0:
            said = f"{' '.join(step)} failed: {done.stderr[-2000:]}\n{hint}".rstrip()
            raise NotInstalled(said, *(done.stderr or done.stdout).strip().splitlines()[-1:])
    ready.write_text(wanted, encoding="utf-8")
    return python


def work_on(python: Path, script: str, job: Mapping[str, Any], out: Path) -> Job:
    """Give a job to a peer; ``out`` names its files."""
    file, result = out.with_suffix(".job.json"), out.with_suffix(".result.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(job) | {"out": str(result)}), encoding="utf-8")
    command = [str(python), "-P", str(SCRIPTS / script), str(file)]
    ended = run(command, job["threads"], out.with_suffix(".log"))
    return Job(ended, json.loads(result.read_text(encoding="utf-8")))


def best(tried: Iterable[Figures | None]) -> Figures | None:
    """The fastest of a peer's settings; none if it was not measured."""
    return max((one for one in tried if one is not None), key=lambda f: f.rate, default=None)


def compiled(args: argparse.Namespace) -> str:
    """What a peer's setting says of torch.compile."""
    return ", compiled" if args.peer_compile else ""
