"""Stage sample: chunks, keys, resuming, skipping, through ``python -m trainer``."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main
from trainer.errors import DataError, IntegrityError, ModelError, Stopped
from trainer.records import (
    ROWS,
    SCHEMA_VERSION,
    Manifest,
    Message,
    PromptRow,
    SampleRow,
    read_manifest,
    read_rows,
    row_line,
    write_atomic,
    write_manifest,
)
from trainer.text import Codec

ROOT = Path(__file__).parents[2]
WORDS = [
    "harbour",
    "quiet",
    "boats",
    "dog",
    "nets",
    "children",
    "gulls",
    "wall",
    "light",
    "mother",
    "cup",
    "steps",
    "fish",
]


def write_prompts(folder: Path, texts: Sequence[str]) -> Path:
    rows = [
        PromptRow(f"p{i}", (Message("user", text),), "train", "plain", "open_qa")
        for i, text in enumerate(texts)
    ]
    digest = write_atomic(folder / ROWS, [row_line(row) for row in rows])
    manifest = Manifest(SCHEMA_VERSION, "prompts", "prompts-test", len(rows), {ROWS: digest})
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Ten prompts of different lengths."""
    return write_prompts(tmp_path / "prompts", [" ".join(WORDS[: 1 + i]) for i in range(10)])


def write_config(out: Path, model: Path, prompts: Path, **settings: Any) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    base = {
        "out": str(out), "model": str(model), "prompts": str(prompts), "k": 3, "chunk": 4,
        "max_new_tokens": 10, "precision": "fp32", "threads": 1,
    }  # fmt: skip
    config = out / "config.json"
    config.write_text(json.dumps(base | settings))
    return config


def sample(out: Path, model: Path, prompts: Path, **settings: Any) -> int:
    return main(["sample", "--config", str(write_config(out, model, prompts, **settings))])


def rows_of(out: Path) -> list[SampleRow]:
    files = sorted(out.glob(f"chunks/*/{ROWS}"))
    return [row for file in files for row in read_rows(file, SampleRow)]


def message_of(out: Path) -> str:
    return str(json.loads((out / "error.json").read_text())["message"])


def test_every_prompt_gets_k_answers_in_chunks(
    tiny_model: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert sample(out, tiny_model, prompts, seed=5, temperature=0.9) == 0
    rows = rows_of(out)
    assert [(row.prompt_id, row.index) for row in rows] == [
        (f"p{i}", k) for i in range(10) for k in range(3)
    ]
    codec = Codec.load(tiny_model)
    for row in rows:
        assert (row.seed, row.temperature, row.max_new_tokens) == (5, 0.9, 10)
        assert row.text == codec.decode(row.token_ids)
        assert 1 <= len(row.token_ids) <= 10
        assert row.finished or len(row.token_ids) == 10
    chunks = [read_manifest(f, verify=True) for f in sorted((out / "chunks").iterdir())]
    assert [chunk.rows for chunk in chunks] == [12, 12, 6]
    top = read_manifest(out, verify=True)
    assert (top.kind, top.rows, top.notes) == ("sample", 30, ())
    assert [(p.role, p.name) for p in top.parents] == [
        ("policy", tiny_model.name), ("prompts", "prompts-test"),
    ]  # fmt: skip
    assert top.metrics["tokens"] == sum(len(row.token_ids) for row in rows)
    assert top.metrics["finished"] == sum(row.finished for row in rows)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(1, 3), (2, 3), (3, 3)]
    assert sum(line["values"]["tokens"] for line in lines) == top.metrics["tokens"]


@pytest.mark.slow
def test_samples_do_not_depend_on_chunk_or_batch(
    tiny_model: Path, prompts: Path, tmp_path: Path
) -> None:
    assert sample(tmp_path / "a", tiny_model, prompts) == 0
    assert sample(tmp_path / "b", tiny_model, prompts, chunk=10, batch=7) == 0
    assert sample(tmp_path / "c", tiny_model, prompts, seed=1) == 0
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert rows_of(tmp_path / "a") != rows_of(tmp_path / "c")


def test_finished_chunks_are_kept_and_the_rest_drawn(
    tiny_llama: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert sample(out, tiny_llama, prompts) == 0
    whole, rows = read_manifest(out), rows_of(out)
    # As a kill leaves it: the second chunk has rows and no manifest, the run has none either.
    (out / "manifest.json").unlink()
    (out / "chunks/0001/manifest.json").unlink()
    with (out / "chunks/0001" / ROWS).open("a") as torn:
        torn.write('{"prompt_id": "p4", "ind')
    kept = (out / "chunks/0000" / ROWS).stat().st_mtime_ns
    assert sample(out, tiny_llama, prompts) == 0
    assert rows_of(out) == rows
    assert (out / "chunks/0000" / ROWS).stat().st_mtime_ns == kept
    again = read_manifest(out, verify=True)
    assert again.metrics["tokens"] == whole.metrics["tokens"]
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_sigterm_ends_a_run_and_a_retry_goes_on(
    tiny_llama: Path, prompts: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sample(whole, tiny_llama, prompts, chunk=1) == 0
    config = write_config(out, tiny_llama, prompts, chunk=1, max_new_tokens=10)
    command = [sys.executable, "-W", "error", "-m", "trainer", "sample", "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        while not (out / "chunks/0000/manifest.json").exists():
            assert child.poll() is None
            time.sleep(0.001)
        child.send_signal(signal.SIGTERM)
        code = child.wait(60)
    # A very fast machine may have finished all ten chunks before the signal came.
    assert code in (Stopped.exit_code, 0)
    if code:
        assert not (out / "manifest.json").exists()
        assert "goes on from its last checkpoint" in message_of(out)
        assert sample(out, tiny_llama, prompts, chunk=1) == 0
    assert rows_of(out) == rows_of(whole)


def test_long_prompts_are_skipped_counted_and_said(tiny_llama: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", ["fish", "fish " * 100, "nets", "dog " * 100])
    out = tmp_path / "out"
    assert sample(out, tiny_llama, prompts, max_prompt_tokens=50) == 0
    assert {row.prompt_id for row in rows_of(out)} == {"p0", "p2"}
    manifest = read_manifest(out)
    assert manifest.metrics["skipped"] == 2
    assert manifest.notes == (
        "2 prompts longer than 50 tokens or the model's positions were skipped.",
    )


def test_a_chunk_of_only_long_prompts_is_empty(tiny_gpt2: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", ["fish " * 300, "dog " * 300, "nets"])
    out = tmp_path / "out"
    assert sample(out, tiny_gpt2, prompts, chunk=2) == 0  # 256 positions are the limit here
    assert read_manifest(out / "chunks/0000").rows == 0
    assert read_manifest(out).metrics["skipped"] == 2


def test_answers_longer_than_the_model_reaches_are_refused(
    tiny_gpt2: Path, prompts: Path, tmp_path: Path
) -> None:
    code = sample(tmp_path / "out", tiny_gpt2, prompts, max_new_tokens=256)
    assert code == ModelError.exit_code
    assert "lower max_new_tokens from 256" in message_of(tmp_path / "out")


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 0.5}, {"k": 2}, {"chunk": 5}])
def test_chunks_of_other_settings_are_refused(
    tiny_llama: Path, prompts: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Or a run would be of two kinds of answers, and say that it is of one."""
    out = tmp_path / "out"
    assert sample(out, tiny_llama, prompts) == 0
    (out / "manifest.json").unlink()
    assert sample(out, tiny_llama, prompts, **change) == IntegrityError.exit_code
    assert "Chunk 0000 was made with other settings or parents" in message_of(out)
    assert sample(out, tiny_llama, prompts, batch=1, threads=2) == 0


def test_chunks_of_another_policy_and_altered_ones_are_refused(
    tiny_llama: Path, tiny_gpt2: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert sample(out, tiny_llama, prompts) == 0
    (out / "manifest.json").unlink()
    assert sample(out, tiny_gpt2, prompts) == IntegrityError.exit_code
    assert "Chunk 0000 was made with other settings or parents" in message_of(out)
    with (out / "chunks/0001" / ROWS).open("a") as rows:
        rows.write("\n")
    assert sample(out, tiny_llama, prompts) == IntegrityError.exit_code
    assert "rows.jsonl of 0001 is not what its manifest says" in message_of(out)


def test_changed_prompts_are_refused(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    with (prompts / ROWS).open("a") as rows:
        rows.write("\n")
    assert sample(tmp_path / "out", tiny_llama, prompts) == IntegrityError.exit_code
    assert "rows.jsonl of prompts is not what its manifest says" in message_of(tmp_path / "out")


def test_no_prompts_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    empty = write_prompts(tmp_path / "prompts", [])
    assert sample(tmp_path / "out", tiny_llama, empty) == DataError.exit_code
    assert "no prompts to answer" in message_of(tmp_path / "out")
