"""Child processes that run a script, forked from one that has loaded torch and every stage.

Loading takes seconds of a core, again for each child that is a new interpreter; tests of what many
of them do (meet, stop, are killed) start theirs here. That the trainer starts from its command
line is for those tests that say so.
"""

import multiprocessing
import os
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


def run_children(
    script: str, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]
) -> list[tuple[int, str]]:
    """Run the script, like ``python -c``, in a child for each environment; exit status and words of each.

    A status below 0 is that of a signal.
    """
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, str(number)) for number in range(len(environments))]
        children = [
            _context().Process(target=_run, args=(script, arguments, dict(given), log), daemon=True)
            for given, log in zip(environments, logs, strict=True)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE)
        left = [child for child in children if child.exitcode is None]
        for child in left:
            child.kill()
            child.join()
        said = [log.read_text(errors="replace") for log in logs]
    assert not left, f"{len(left)} children did not end in {PATIENCE:.0f} seconds: {said}"
    return [(child.exitcode, words) for child, words in zip(children, said, strict=True)]


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


def _run(script: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
    with log.open("wb") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    assert "trainer.sft" in sys.modules, "the process that is forked has not loaded the stages"
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
