"""Child processes that run a script or a module, forked from one that has loaded torch and every stage.

Loading takes seconds of a core, again for each child that is a new interpreter; tests of what many
of them do (meet, stop, are killed) start theirs here. That the trainer starts from its command
line is for those tests that say so.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds that a child may take."""
MODULE = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
"""A script that does what ``python -m`` does."""


def run_children(
    script: str, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]
) -> list[subprocess.CompletedProcess[str]]:
    """Run the script, like ``python -c``, in a child for each environment, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [[Path(folder, f"{i}.{to}") for to in (1, 2)] for i in range(len(environments))]
        children = [
            _context().Process(target=_run, args=(script, arguments, dict(given), *to), daemon=True)
            for given, to in zip(environments, logs, strict=True)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE)
        left = [child for child in children if child.exitcode is None]
        for child in left:
            child.kill()
            child.join()
        said = [[log.read_text(errors="replace") for log in to] for to in logs]
    assert not left, f"{len(left)} children did not end in {PATIENCE:.0f} seconds: {said}"
    return [
        subprocess.CompletedProcess(arguments, child.exitcode, *words)
        for child, words in zip(children, said, strict=True)
    ]


def own_threads() -> dict[str, str]:
    """This process's environment, with one thread for a child."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.loaded"])
    with patch.dict(os.environ, own_threads() | {"PYTHONPATH": str(ROOT)}):
        forkserver.ensure_running()
    return context


def _run(
    script: str, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path
) -> None:
    for standard, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), standard)
    assert "trainer.sft" in sys.modules, "the process that is forked has not loaded the stages"
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
