"""Units of the learning scripts: done once, also when the script is killed in one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.learning.units import Unit, extent, run_units, settings_of_units, sizes_of
from bench.measure import ROOT

SCRIPT = """
import sys, time
from pathlib import Path
from bench.learning.units import Unit, run_units
from bench.measure import stoppable

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
stoppable()

def work(name):
    def do():
        with log.open("a") as out:
            out.write(name + " ")
        if name == "b" and log.read_text().count("b") == 1:
            time.sleep(60)
        return {"name": name}
    return Unit(name, 1, do)

run_units(folder, [work(name) for name in "abc"], {"size": 1})
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "units"), str(tmp_path / "log")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(log: Path, word: str) -> None:
    end = time.monotonic() + 60
    while not log.is_file() or word not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_script_redoes_only_the_unit_it_was_in(
    tmp_path: Path, number: signal.Signals
) -> None:
    first = start(tmp_path)
    wait_for(tmp_path / "log", "b")
    time.sleep(0.3)
    first.send_signal(number)
    first.communicate()
    assert sorted(p.name for p in (tmp_path / "units" / "results").glob("?.json")) == ["a.json"]
    second = start(tmp_path)
    said = second.communicate()[1]
    assert second.returncode == 0
    assert (tmp_path / "log").read_text().split() == ["a", "b", "b", "c"]
    assert "[1/3] a: there already" in said
    assert "[2/3] b: begun, about 1 s" in said
    assert "[3/3] c: done in" in said
    if number is signal.SIGTERM:  # what the try that was cut short took counts too
        assert json.loads((tmp_path / "units" / "results" / "b.json").read_text())["seconds"] >= 0.3


def test_results_are_given_in_order_with_what_they_took(tmp_path: Path) -> None:
    units = [Unit(name, 5, lambda name=name: {"name": name}) for name in ("x", "y")]
    for _ in range(2):
        found = run_units(tmp_path, units, {"sizes": (1, 2)})
        assert [result["name"] for result in found] == ["x", "y"]
        assert all(result["seconds"] < 1 for result in found)


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    run_units(tmp_path, [], {"seeds": 1})
    with pytest.raises(SystemExit, match="name another --work"):
        run_units(tmp_path, [], {"seeds": 2})


def test_a_failed_unit_leaves_no_result(tmp_path: Path) -> None:
    def fails() -> dict[str, int]:
        raise SystemExit("no luck")

    with pytest.raises(SystemExit, match="no luck"):
        run_units(tmp_path, [Unit("x", 1, fails)], {})
    assert not (tmp_path / "results" / "x.json").exists()


@dataclass(frozen=True)
class Some:
    seeds: int = 3
    rewards: tuple[str, ...] = ("concise",)


def test_sizes_are_those_of_the_budget_but_for_what_is_named() -> None:
    budgets = {"full": Some(), "small": Some(seeds=1)}
    assert sizes_of(budgets, "small", {"rewards": ["harmless"]}) == Some(1, ("harmless",))
    for wrong in ({"seed": 1}, {"seeds": "1"}):
        with pytest.raises(SystemExit, match="--set: sizes"):
            sizes_of(budgets, "full", wrong)


@dataclass(frozen=True)
class Few:
    updates: int = 4
    seeds: int = extent(1)


def test_more_seeds_leave_what_is_done_and_another_size_does_not(tmp_path: Path) -> None:
    done: list[str] = []

    def runs(sizes: Few) -> list[str]:
        names = [f"seed-{seed}" for seed in range(sizes.seeds)]
        units = [Unit(n, 1, lambda n=n: done.append(n) or {"n": n}) for n in names]  # type: ignore[misc]
        return [one["n"] for one in run_units(tmp_path, units, settings_of_units(sizes))]

    assert runs(Few()) == ["seed-0"]
    assert runs(Few(seeds=3)) == ["seed-0", "seed-1", "seed-2"]
    assert done == ["seed-0", "seed-1", "seed-2"]
    with pytest.raises(SystemExit, match="results of other settings"):
        runs(Few(updates=5))
