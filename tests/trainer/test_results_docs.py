"""docs/results.md shows what the learning scripts wrote, to the letter."""

import json
from pathlib import Path

import pytest

from bench.learning.report import tables
from bench.measure import ROOT

KEPT = ROOT / "docs" / "results"
FOUND = sorted(
    file for file in KEPT.rglob("*.json") if file.with_name(f"{file.stem}-full").is_dir()
)


@pytest.mark.parametrize("file", FOUND, ids=lambda file: str(file.relative_to(KEPT)))
def test_the_tables_of_the_docs_are_those_that_a_script_printed(file: Path) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert tables(json.loads(file.read_text(encoding="utf-8"))).strip() in page


def test_some_results_are_kept_with_the_settings_that_their_units_had() -> None:
    assert FOUND
    for file in FOUND:
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
        of_units = file.parent / f"{file.stem}-{settings['budget']}" / "settings.json"
        for name, value in json.loads(of_units.read_text(encoding="utf-8")).items():
            if name != "model":
                assert settings[name] == value, f"{file.stem}: {name}"
