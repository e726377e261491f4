"""Units of work, each done once: a result is written when its unit is done, and read ever after.

A script that is killed and started again redoes only the unit that it was in, and of that only
what the trainer's own checkpoint does not hold.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from trainer.records import write_atomic
from trainer.strict import from_plain

Sizes = TypeVar("Sizes")
Result = dict[str, Any]
RESULTS, SETTINGS = "results", "settings.json"
_EXTENT = "extent"


@dataclass(frozen=True)
class Unit:
    """A named piece of work."""

    name: str
    seconds: float
    """What it takes on two cores, about."""
    work: Callable[[], Result]
    """Gives what is to be kept, as JSON."""


def run_units(
    folder: Path, units: Sequence[Unit], settings: Mapping[str, Any], results: Path | None = None
) -> list[Result]:
    """The results of all units in order; those that are there already are read.

    Each result has ``seconds`` beside its own: what the unit took, tries that were cut short
    included. They are in ``results``, where none is named in ``folder/results``. SystemExit if
    those are of other ``settings``.
    """
    folder = results or folder / RESULTS
    _check_settings(folder, settings)
    pace = _Pace([unit.seconds for unit in units])
    found = []
    for number, unit in enumerate(units):
        file = folder / f"{unit.name}.json"
        head = f"[{number + 1}/{len(units)}] {unit.name}"
        if file.is_file():
            found.append(json.loads(file.read_text(encoding="utf-8")))
            _say(f"{head}: there already, {found[-1]['seconds']:.0f} s")
        else:
            _say(f"{head}: begun, about {pace.expected(number):.0f} s")
            found.append(_done(unit, file))
            pace.note(number, found[-1]["seconds"])
            left = pace.left(number + 1)
            _say(f"{head}: done in {found[-1]['seconds']:.0f} s, about {left / 60:.1f} min to go")
    total = sum(result["seconds"] for result in found)
    _say(f"{len(units)} units, {total / 60:.1f} min in all")
    return found


def _done(unit: Unit, file: Path) -> Result:
    """Do a unit and keep its result; what a try took is kept too, if it was cut short."""
    spent = file.with_suffix(".spent")
    before = float(spent.read_text()) if spent.is_file() else 0.0
    started = time.monotonic()
    try:
        result = unit.work()
    except BaseException:
        write_atomic(spent, [f"{before + time.monotonic() - started:.1f}\n"])
        raise
    result = result | {"seconds": round(before + time.monotonic() - started, 1)}
    write_atomic(file, [json.dumps(result), "\n"])
    spent.unlink(missing_ok=True)
    return result


class _Pace:
    """How long units take beside what was expected of them."""

    def __init__(self, expected: Sequence[float]) -> None:
        self._expected, self._took, self._of = list(expected), 0.0, 0.0

    def note(self, number: int, seconds: float) -> None:
        self._took, self._of = self._took + seconds, self._of + self._expected[number]

    def expected(self, number: int) -> float:
        return self._expected[number] * (self._took / self._of if self._of else 1.0)

    def left(self, first: int) -> float:
        return sum(self.expected(number) for number in range(first, len(self._expected)))


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    file, plain = folder / SETTINGS, json.loads(json.dumps(dict(settings)))
    with suppress(FileNotFoundError):
        if json.loads(file.read_text(encoding="utf-8")) != plain:
            raise SystemExit(
                f"{folder} holds results of other settings: name another --work, or --results."
            )
    write_atomic(file, [json.dumps(plain, indent=1), "\n"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def extent(default: Any) -> Any:
    """A field of sizes that says how many units there are and changes none: with more of it, what
    is done stays.
    """
    return field(default=default, metadata={_EXTENT: True})


def settings_of_units(sizes: Any) -> dict[str, Any]:
    """The sizes that a unit's result depends on."""
    return {
        one.name: getattr(sizes, one.name) for one in fields(sizes) if _EXTENT not in one.metadata
    }


def sizes_of(budgets: Mapping[str, Sizes], budget: str, changes: Mapping[str, Any]) -> Sizes:
    """A budget's sizes with some changed; SystemExit names one that is not known or of a wrong type."""
    from trainer.errors import ConfigError

    plain = vars(budgets[budget]) | dict(changes)
    try:
        return from_plain(type(budgets[budget]), plain, where="sizes", error=ConfigError)
    except ConfigError as error:
        raise SystemExit(f"--set: {error}") from None
