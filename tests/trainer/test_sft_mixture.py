"""Several sets of demonstrations, mixed by weight: how many, which, and what the manifest says."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainer.sft_cast import CPU, config, train
from tests.trainer.snapshots import demonstration_row, write_snapshot
from trainer.data import Example, Splits
from trainer.errors import ConfigError
from trainer.mixture import (
    Mixture,
    Source,
    beside,
    drawn,
    in_proportion,
    load_mixture,
    shares,
    source_parents,
)
from trainer.models import LanguageModel
from trainer.records import read_manifest
from trainer.sft import validation_loss
from trainer.text import Codec


def source(name: str, first: int, size: int, weight: float, valid: int = 0) -> Source:
    """A set whose examples are the numbers from ``first`` on."""
    items = [Example([first + i], [1]) for i in range(size + valid)]
    return Source(name, weight, Splits(items[:size], items[size:], ("Nothing.",)))


def numbers(examples: Sequence[Example]) -> list[int]:
    return [example.prompt[0] for example in examples]


def mixture(seed: int = 0, examples: int | None = None) -> Mixture:
    sources = [source("a", 100, 8, 1.0, 4), source("b", 200, 5, 0.5, 9), source("c", 300, 3, 0.25)]
    return Mixture(sources, batch=4, seed=seed, examples=examples)


def test_an_epoch_is_one_pass_over_the_first_set_and_the_others_in_proportion() -> None:
    mixed = mixture()
    assert mixed.counts == [8, 4, 2]
    assert (mixed.size, mixed.steps) == (14, 4)
    for epoch in range(3):
        found = Counter(n // 100 for n in numbers(mixed.epoch(epoch)))
        assert found == {1: 8, 2: 4, 3: 2}
        assert sorted(n for n in numbers(mixed.epoch(epoch)) if n < 200) == list(range(100, 108))


def test_an_epoch_can_be_a_stated_number_of_examples() -> None:
    mixed = mixture(examples=7)
    assert mixed.counts == [4, 2, 1]
    assert shares(10, [1, 1, 1]) == [4, 3, 3]
    assert shares(10, [0.2, 0.7, 0.1]) == [2, 7, 1]
    assert shares(1, [1, 3]) == [0, 1]
    assert in_proportion(100, [2, 1, 0.001]) == [100, 50, 1]
    assert in_proportion(0, [1, 5]) == [0, 0]


def test_no_example_comes_twice_before_each_came_once() -> None:
    taken = [drawn(5, 2, epoch, 9) for epoch in range(5)]
    flat = [i for part in taken for i in part]
    assert sorted(flat[:5]) == sorted(flat[5:]) == list(range(5))
    assert flat[:5] != flat[5:], "each pass has an order of its own"
    more = [i for epoch in range(2) for i in drawn(3, 6, epoch, 9)]
    assert Counter(more) == {0: 4, 1: 4, 2: 4}
    assert drawn(50, 20, 1, 9) != drawn(50, 20, 1, 8)


def test_batches_are_a_function_of_seed_and_step_alone() -> None:
    one, again, other = mixture(), mixture(), mixture(seed=1)
    in_order = [numbers(one.at(step)) for step in range(8)]
    assert [numbers(again.at(step)) for step in (6, 1, 4, 0)] == [
        in_order[step] for step in (6, 1, 4, 0)
    ]
    assert [numbers(other.at(step)) for step in range(8)] != in_order
    assert sorted(n for batch in in_order[:4] for n in batch) == sorted(numbers(one.epoch(0)))
    assert any(len({n // 100 for n in batch}) > 1 for batch in in_order), "sets are interleaved"


def test_one_set_by_itself_is_taken_in_the_order_it_always_was() -> None:
    alone = Mixture([source("a", 0, 6, 1.0)], batch=6, seed=0)
    assert numbers(alone.epoch(3)) == list(range(6))
    assert alone.notes == ("Nothing.",)
    assert mixture().notes == ("a: Nothing.", "b: Nothing.", "c: Nothing.")


def test_the_held_out_examples_are_mixed_in_the_same_proportion() -> None:
    assert numbers(mixture().valid) == [108, 109, 110, 111, 205, 206]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        write_snapshot(
            tmp_path / name, "demonstrations", [demonstration_row(i + shift) for i in range(16)]
        )
        for name, shift in (("main", 0), ("flan", 16), ("chat", 32))
    ]


def test_a_run_names_every_set_with_its_hash_and_counts_what_it_took(
    tmp_path: Path, tiny_llama: Path, folders: list[Path]
) -> None:
    mixed = [
        {"demonstrations": str(folders[1]), "weight": 0.5},
        {"demonstrations": str(folders[2]), "weight": 0.25, "cap": 2},
    ]
    settings = config(tmp_path / "run", tiny_llama, folders[0], mixture=mixed, epochs=2)
    lines = train(settings)
    assert len(lines) == 2 * -(-(12 + 6 + 3) // 4)
    manifest = read_manifest(tmp_path / "run", verify=True)
    parents = [p for p in manifest.parents if p.role == "demonstrations"]
    assert [p.name for p in parents] == ["main", "flan", "chat"]
    assert [p.sha256 for p in parents] == [read_manifest(folder).sha256 for folder in folders]
    assert manifest.metrics["sources"] == [
        {"name": "main", "weight": 1, "examples": 12, "per_epoch": 12, "taken": 24},
        {"name": "flan", "weight": 0.5, "examples": 12, "per_epoch": 6, "taken": 12},
        {"name": "chat", "weight": 0.25, "examples": 2, "per_epoch": 3, "taken": 6},
    ]
    assert manifest.rows == 26
    assert manifest.settings["mixture"] == [
        {"weight": 0.5, "cap": None},
        {"weight": 0.25, "cap": 2},
    ], "no folder of this machine"
    assert str(tmp_path) not in (tmp_path / "run" / "manifest.json").read_text()


def test_the_first_of_a_mixture_is_the_main_set_where_no_other_is_named(
    tmp_path: Path, tiny_llama: Path, folders: list[Path]
) -> None:
    mixed = [{"demonstrations": str(folder), "weight": 3} for folder in folders[:2]]
    settings = config(tmp_path / "run", tiny_llama, mixture=mixed, epoch_examples=9)
    found = load_mixture(settings, Codec.load(tiny_llama), source_parents(settings))
    assert found.counts == [5, 4]
    assert len(found.valid) == 4


def test_a_cap_takes_the_same_examples_for_the_same_seed(
    tmp_path: Path, tiny_llama: Path, folders: list[Path]
) -> None:
    codec = Codec.load(tiny_llama)

    def capped(seed: int) -> list[Example]:
        mixed = [{"demonstrations": str(folders[0]), "weight": 1, "cap": 5}]
        settings = config(tmp_path / "run", tiny_llama, mixture=mixed, seed=seed)
        return load_mixture(settings, codec, source_parents(settings)).epoch(0)

    assert len(capped(0)) == 5
    assert capped(0) == capped(0)
    assert capped(0) != capped(1)


def test_a_set_that_weighs_nothing_and_no_set_at_all_are_refused(
    tmp_path: Path, tiny_llama: Path
) -> None:
    for wrong in ({"weight": 0}, {"weight": math.inf}, {"weight": 1, "cap": 0}):
        with pytest.raises(ConfigError, match=r"of x is (0(\.0)?|inf); it must be above 0"):
            config(tmp_path, tiny_llama, mixture=[{"demonstrations": "x"} | wrong])
    with pytest.raises(ConfigError, match=r"mixture\[0\] lacks the field 'weight'"):
        config(tmp_path, tiny_llama, mixture=[{"demonstrations": "x"}])
    with pytest.raises(ConfigError, match="name a snapshot folder in demonstrations"):
        train(config(tmp_path / "run", tiny_llama))


# ---- running text --------------------------------------------------------------------------------


def windows_of(mixed: Mixture, epoch: int) -> list[Example]:
    return [example for example in mixed.epoch(epoch) if len(example.prompt) == 1]


def test_windows_of_text_are_a_tenth_of_an_epochs_examples_and_learned_whole(
    tmp_path: Path, tiny_llama: Path, folders: list[Path]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i}" for i in range(400)), encoding="utf-8")
    settings = config(
        tmp_path / "run", tiny_llama, folders[0],
        epoch_examples=18, pretrain_text=str(text), pretrain_tokens=16, epochs=2,
    )  # fmt: skip
    assert settings.pretrain_share == 0.1
    mixed = load_mixture(settings, Codec.load(tiny_llama), source_parents(settings))
    assert mixed.counts == [18, 2]
    first, second = windows_of(mixed, 0), windows_of(mixed, 1)
    assert [example.learned for example in first + second] == 4 * [[False] + 15 * [True]]
    assert len({tuple(example.ids) for example in first + second}) == 4
    assert all(len(example.prompt) > 1 for example in mixed.valid)


@pytest.mark.parametrize(("demonstrations", "share", "windows"), [(90, 0.1, 10), (9, 0.5, 9)])
def test_the_share_of_text_is_one_of_all_examples(
    demonstrations: int, share: float, windows: int
) -> None:
    assert beside(demonstrations, share) == windows
    assert beside(1, 0.01) == 1, "some where any was asked for"


def test_a_run_with_text_learns_it_and_names_it_as_a_parent(
    tmp_path: Path, tiny_llama: Path, folders: list[Path]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("so it goes " * 60, encoding="utf-8")
    mixed = {"pretrain_text": str(text), "pretrain_share": 0.5, "pretrain_tokens": 24}
    found = {}
    for name, more in (("with", mixed), ("without", {})):
        train(config(tmp_path / name, tiny_llama, folders[0], **more))
        model = LanguageModel.load(tmp_path / name / "model", 0, "fp32", CPU)
        codec = Codec.load(tmp_path / name / "model")
        ids = codec.encode_text("so it goes so it goes so it goes")
        example = Example(ids[:1], ids[1:])
        found[name] = validation_loss(model, [example], codec.pad_id, 4096)
    assert found["with"] < found["without"] - 0.5
    manifest = read_manifest(tmp_path / "with", verify=True)
    assert [p.name for p in manifest.parents if p.role == "pretrain_text"] == ["text.txt"]
    assert [s["per_epoch"] for s in manifest.metrics["sources"]] == [12, 12]
    assert manifest.rows == 12, "of demonstrations"
    assert str(tmp_path) not in (tmp_path / "with" / "manifest.json").read_text()


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_of_none_or_all_is_refused(tmp_path: Path, tiny_llama: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="pretrain_share is"):
        config(tmp_path, tiny_llama, pretrain_share=share)
