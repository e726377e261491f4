"""The contract: rows and manifests are written and read back whole, or refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import DataError, IntegrityError
from trainer.records import (
    MANIFEST,
    SCHEMA_VERSION,
    ComparisonRow,
    Manifest,
    Message,
    Output,
    Parent,
    PromptRow,
    Sampling,
    read_manifest,
    read_rows,
    row_line,
    write_atomic,
    write_manifest,
)
from trainer.strict import from_plain

PROMPT = PromptRow(
    "p1", (Message("user", "Wie viele Fische? \U0001f41f\n"),), "test", "user", "chat"
)


def output(name: str) -> Output:
    return Output(name, f"text {name}", (5, 2), True, "v1", Sampling(1.0, 0, 0, 48))


def comparison(**changes: Any) -> ComparisonRow:
    fields: dict[str, Any] = {
        "id": "c1",
        "task_id": "t1",
        "prompt_id": "p1",
        "prompt": PROMPT.prompt,
        "outputs": tuple(map(output, "abcd")),
        "shown_order": ("c", "a", "d", "b"),
        "rank_groups": (("b",), ("a", "d"), ("c",)),
        "ratings": {"a": 4},
        "flags": {"a": {"violent": None, "harmful_advice": False}},
        "strength": None,
        "confidence": None,
        "labeler": "0f3a",
        "labeler_group": None,
        "active_ms": 1200,
        "round": 1,
        "instructions_version": 1,
        "split": "train",
        "kind": "plain",
        "use_case": "open_qa",
        "surplus": False,
        "simulated": False,
    }
    return ComparisonRow(**(fields | changes))


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_atomic(path, [row_line(comparison()), row_line(comparison(id="c2", ratings=None))])
    assert list(read_rows(path, ComparisonRow)) == [
        comparison(),
        comparison(id="c2", ratings=None),
    ]


def test_a_row_is_one_line_of_utf8_with_every_field() -> None:
    line = row_line(PROMPT)
    assert line.count("\n") == 1
    assert "\U0001f41f" in line
    assert set(json.loads(row_line(comparison()))) >= {"strength", "confidence", "labeler_group"}


def test_ranks_follow_the_order_of_the_outputs() -> None:
    assert comparison().ranks() == [1, 0, 2, 1]


def test_what_was_not_judged_has_no_rank() -> None:
    row = comparison(rank_groups=(("d",), ("a",)), not_judged=("b", "c"))
    assert [output.id for output in row.judged] == ["a", "d"]
    assert row.ranks() == [1, 0]


def test_a_row_from_before_partial_rankings_judged_everything() -> None:
    line = json.loads(row_line(comparison()))
    del line["not_judged"], line["all_bad"]
    assert from_plain(ComparisonRow, line, where="line", error=DataError) == comparison()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_groups": (("a",), ("b",))}, "must place each of its outputs exactly once"),
        ({"rank_groups": (("a", "b", "c", "d"), ("a",))}, "exactly once"),
        ({"not_judged": ("a",)}, "exactly once, or name it in not_judged"),
        ({"not_judged": ("e",)}, "exactly once"),
        ({"ratings": {"e": 4}}, "rates an output that it does not have"),
        ({"flags": {"e": {}}}, "rates an output that it does not have"),
        ({"ratings": {"a": 8}}, "has the rating 8; it must be 1 to 7"),
        ({"ratings": {"a": 0}}, "has the rating 0"),
        ({"outputs": (output("a"),), "rank_groups": (("a",),)}, "has 1 outputs; 2 to 9"),
        ({"outputs": tuple(map(output, "abcdefghij"))}, "has 10 outputs; 2 to 9"),
    ],
)
def test_a_ranking_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        comparison(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, r"rows.jsonl line 2.split is 'training'; it must be one of"),
        ({"prompt": [{"role": "user"}]}, r"line 2.prompt\[0\] lacks the field 'content'"),
        ({"prompt": "Hi"}, "line 2.prompt is 'Hi'; it must be a list"),
        ({"id": 3}, "line 2.id is 3; it must be of type str"),
        ({"id": "\ud800"}, r"line 2.id is '\\ud800'; half a character is no text"),
        ({"colour": "red"}, "line 2 has the unknown field 'colour'"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    bad = json.loads(row_line(PROMPT)) | change
    path.write_text(row_line(PROMPT) + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=message):
        list(read_rows(path, PromptRow))


UNREADABLE = [
    (b'{"id": "p2", "pro', "is not JSON"),
    (b"\xff\xfe{", r"is not UTF-8 text \(byte 0\)"),
    (b'{"id": "caf\xe9"}', r"is not UTF-8 text \(byte 11\)"),
    (b"[" * 100_000, "is nested too deeply"),
    (b'{"id": ' + b"1" * 5000 + b"}", "has a number that is too large"),
]
"""What is no row and no manifest, and what is said of it."""


@pytest.mark.parametrize(("line", "message"), UNREADABLE)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(row_line(PROMPT).encode() + line + b"\n")
    rows = read_rows(tmp_path / "rows.jsonl", PromptRow)
    assert next(rows) == PROMPT
    with pytest.raises(DataError, match=f"^rows.jsonl line 2 {message}"):
        next(rows)


def test_a_whole_number_beyond_every_fraction_is_refused(tmp_path: Path) -> None:
    """Where a fraction is wanted, whole numbers do, but not of 400 digits."""
    plain = json.loads(row_line(comparison())) | {"confidence": 10**400}
    (tmp_path / "rows.jsonl").write_text(json.dumps(plain) + "\n")
    with pytest.raises(DataError, match=r"line 1.confidence is a number that is too large"):
        list(read_rows(tmp_path / "rows.jsonl", ComparisonRow))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    def broken() -> Any:
        yield "new"
        raise RuntimeError("cut")

    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError, match="cut"):
        write_atomic(tmp_path / "a", broken())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    digest = write_atomic(tmp_path / "model" / "a.txt", ["abc"])
    parents = (Parent("policy", "v1", "00ff"),)
    return Manifest(
        SCHEMA_VERSION, "sft", "sft-1", 3, {"model/a.txt": digest}, parents,
        settings={"epochs": 1}, metrics={"loss": 0.5}, notes=("A note.",),
    )  # fmt: skip


def test_a_manifest_is_read_back_and_verified(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path, verify=True) == manifest


def test_the_content_hash_follows_the_files_and_nothing_else(manifest: Manifest) -> None:
    # sha256 of "ba7816bf...15ad  model/a.txt\n", worked out with sha256sum
    assert manifest.sha256 == "bf652ef8dbb6c20cc41825a1fdbd8164595054aa5b9183d766629125e9e96264"
    assert replace(manifest, name="other", metrics={}).sha256 == manifest.sha256
    assert replace(manifest, files={"model/b.txt": "00"}).sha256 != manifest.sha256


def test_a_folder_that_does_not_match_its_manifest_is_refused(
    tmp_path: Path, manifest: Manifest
) -> None:
    with pytest.raises(IntegrityError, match="never finished"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, manifest)
    (tmp_path / "model" / "a.txt").write_text("abd")
    with pytest.raises(IntegrityError, match="model/a.txt of .* is not what its manifest says"):
        read_manifest(tmp_path, verify=True)
    (tmp_path / "model" / "a.txt").unlink()
    with pytest.raises(IntegrityError, match="lacks model/a.txt"):
        read_manifest(tmp_path, verify=True)
    write_manifest(tmp_path, replace(manifest, schema_version=99))
    with pytest.raises(IntegrityError, match="schema version 99; this trainer reads 1"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("data", "message"), UNREADABLE)
def test_a_manifest_that_cannot_be_read_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"^{tmp_path.name}/{MANIFEST} {message}"):
        read_manifest(tmp_path)
