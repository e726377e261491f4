"""docs/tour.md: it names every page, shows what it says it shows, and stays small."""

import re
from pathlib import Path

import pytest

from tests.pages import PAGES, route
from tests.tour.__main__ import LIMIT, main, page
from tests.tour.demo import ROOT, TourError, demo_check
from tests.tour.stops import STOPS

DOCS = ROOT / "docs"
TEXT = (DOCS / "tour.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_tour_comes_by_every_page(name: str) -> None:
    assert f"`{route(name)}`" in TEXT


def test_the_text_is_what_the_script_writes_now() -> None:
    assert page() == TEXT, "run `make tour`"


def test_every_picture_is_there_and_all_together_are_small() -> None:
    shown = set(re.findall(r'(?:src|srcset)="([^"]+)"', TEXT))
    there = {f"tour/{each.name}" for each in (DOCS / "tour").iterdir()}
    assert shown == there
    assert len(shown) == 4 * len(STOPS), "wide and narrow, light and dark"
    assert sum((DOCS / each).stat().st_size for each in shown) < LIMIT
    for each in shown:
        assert (DOCS / each).read_bytes()[8:12] == b"WEBP"


def test_every_picture_has_words_for_those_who_do_not_see_it() -> None:
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', TEXT)
    assert len(alts) == 2 * len(STOPS)
    assert all(len(alt) > 20 for alt in alts)


def test_without_a_demo_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tour", "--url", "http://127.0.0.1:9"])
    assert main() == 1
    assert "Start one with `make demo`" in capsys.readouterr().err
    with pytest.raises(TourError, match="No demo answers at nowhere"):
        demo_check("nowhere", tmp_path)
