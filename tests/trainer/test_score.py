"""Stage score: the scores of several reward models, their refusals, and runs that are broken off."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.snapshots import prompt_row, write_snapshot
from tests.trainer.test_ppo import reward_model
from tests.trainer.two_processes import run_two
from trainer import score
from trainer.__main__ import main
from trainer.errors import ConfigError, DataError, IntegrityError, NumericError, Stopped
from trainer.models import ScalarModel
from trainer.reading import score_ids
from trainer.records import (
    MANIFEST,
    ROWS,
    SCHEMA_VERSION,
    Manifest,
    PromptRow,
    SampleRow,
    ScoreRow,
    read_manifest,
    read_rows,
    row_line,
    write_atomic,
    write_manifest,
)
from trainer.stage_io import parent_of
from trainer.text import Codec

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def write_answers(folder: Path, model: Path, prompts: Path, **changes: Any) -> Path:
    """Three answers to each prompt in two chunks, as stage sample leaves them."""
    codec = Codec.load(model)
    rows = [
        SampleRow(
            row.id,
            index,
            text,
            tuple(codec.encode_completion(text, ended=index != 2)),
            index != 2,
            0,
            1.0,
            24,
        )
        for i, row in enumerate(read_rows(prompts / ROWS, PromptRow))
        for index, text in enumerate(
            ("Yes.", " ".join(["The first boat turned."] * (i % 3 + 1)), "bread, salt")
        )
    ]
    half = len(rows) // 2
    files = {
        f"chunks/{number:04d}/{ROWS}": write_atomic(
            folder / f"chunks/{number:04d}" / ROWS, map(row_line, part)
        )
        for number, part in enumerate((rows[:half], rows[half:]))
    }
    parents = (parent_of("policy", model), parent_of("prompts", prompts))
    plain = {"kind": "sample", "rows": len(rows), "files": files, "parents": parents} | changes
    write_manifest(folder, Manifest(schema_version=SCHEMA_VERSION, name="answers", **plain))
    return folder


@pytest.fixture
def folders(tmp_path: Path, tiny_llama: Path) -> dict[str, Any]:
    """Ten prompts, thirty answers, two reward models."""
    prompts = write_snapshot(tmp_path / "prompts", "prompts", [prompt_row(i) for i in range(10)])
    return {
        "model": tiny_llama,
        "prompts": prompts,
        "samples": write_answers(tmp_path / "samples", tiny_llama, prompts),
        "rewards": [reward_model(tiny_llama, tmp_path / f"rm{seed}", seed) for seed in (5, 6)],
    }


def config_file(out: Path, folders: dict[str, Any], **changes: Any) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    named = {name: str(folders[name]) for name in ("model", "prompts", "samples")}
    plain: dict[str, Any] = {
        "out": str(out), **named, "rewards": [str(folder) for folder in folders["rewards"]],
        "chunk": 12, "micro_tokens": 256, "precision": "fp32", "threads": 1,
    }  # fmt: skip
    path = out / "config.json"
    path.write_text(json.dumps(plain | changes))
    return path


def scored(out: Path, folders: dict[str, Any], **changes: Any) -> int:
    return main(["score", "--config", str(config_file(out, folders, **changes))])


def scores_of(out: Path) -> dict[tuple[int, str, int], float]:
    files = sorted(out.glob(f"chunks/*/{ROWS}"))
    rows = [row for file in files for row in read_rows(file, ScoreRow)]
    found = {(row.judge, row.prompt_id, row.index): row.score for row in rows}
    assert len(found) == len(rows)
    return found


def one_by_one(
    folders: dict[str, Any], codecs: dict[Path, Codec]
) -> dict[tuple[int, str, int], float]:
    """Every score again, each answer alone, read by the codec of its reward model."""
    prompts = {row.id: row.prompt for row in read_rows(folders["prompts"] / ROWS, PromptRow)}
    files = sorted(folders["samples"].glob(f"chunks/*/{ROWS}"))
    found = {}
    for judge, folder in enumerate(folders["rewards"]):
        model, codec = ScalarModel.load(folder, 0, "fp32", CPU), codecs[folder]
        for row in (row for file in files for row in read_rows(file, SampleRow)):
            answer = codec.encode_completion(row.text, ended=row.finished)
            ids = [*codec.encode_prompt(prompts[row.prompt_id]), *answer]
            alone = score_ids(model, [ids], 0, 4096, lambda: None)
            found[judge, row.prompt_id, row.index] = float(alone)
    return found


def message_of(out: Path) -> str:
    return str(json.loads((out / "error.json").read_text())["message"])


@pytest.mark.slow
def test_every_reward_model_scores_every_answer_as_it_does_alone(
    tmp_path: Path, folders: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    assert scored(out, folders) == 0
    codec = Codec.load(folders["model"])
    alone = one_by_one(folders, dict.fromkeys(folders["rewards"], codec))
    found = scores_of(out)
    assert len(found) == 60
    assert found == pytest.approx(alone, abs=1e-5)
    first, second = ([found[j, p, i] for k, p, i in found if k == 0] for j in (0, 1))
    assert first != pytest.approx(second, abs=1e-2)
    manifest = read_manifest(out, verify=True)
    assert (manifest.kind, manifest.rows, manifest.notes) == ("score", 60, ())
    roles = [parent.role for parent in manifest.parents]
    assert roles == ["policy", "prompts", "samples", "reward", "reward"]
    means = [math.fsum(each) / 30 for each in (first, second)]
    assert manifest.metrics["means"] == pytest.approx(means)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(i + 1, 6) for i in range(6)]
    assert [line["values"]["judge"] for line in lines] == [0, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_neither_chunk_nor_batch_changes_a_score(tmp_path: Path, folders: dict[str, Any]) -> None:
    assert scored(tmp_path / "a", folders) == 0
    assert scored(tmp_path / "b", folders, chunk=30, micro_tokens=1) == 0
    a, b = scores_of(tmp_path / "a"), scores_of(tmp_path / "b")
    assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tmp_path: Path, folders: dict[str, Any]) -> None:
    assert scored(tmp_path / "a", folders) == 0
    assert run_two("score", config_file(tmp_path / "b", folders)) == [0, 0]
    a, b = scores_of(tmp_path / "a"), scores_of(tmp_path / "b")
    assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.slow
def test_a_reward_model_of_another_tokenizer_reads_the_text_again(
    tmp_path: Path, folders: dict[str, Any], tiny_gpt2: Path
) -> None:
    other = reward_model(tiny_gpt2, tmp_path / "other")
    folders["rewards"][1] = other
    out = tmp_path / "out"
    assert scored(out, folders) == 0
    codecs = {folders["rewards"][0]: Codec.load(folders["model"]), other: Codec.load(tiny_gpt2)}
    assert scores_of(out) == pytest.approx(one_by_one(folders, codecs), abs=1e-5)
    assert read_manifest(out).notes == (score.OTHER_TOKENIZER.format(judge=1),)


# ---- broken off -------------------------------------------------------------------------------


def test_finished_chunks_are_kept_and_the_rest_made(
    tmp_path: Path, folders: dict[str, Any]
) -> None:
    """As a kill leaves it: one chunk of the second model has rows and no manifest."""
    out = tmp_path / "out"
    assert scored(out, folders) == 0
    scores = scores_of(out)
    (out / MANIFEST).unlink()
    (out / "chunks/01-0001" / MANIFEST).unlink()
    with (out / "chunks/01-0001" / ROWS).open("a") as torn:
        torn.write('{"prompt_id": "p4", "ind')
    kept = (out / "chunks/00-0000" / ROWS).stat().st_mtime_ns
    assert scored(out, folders) == 0
    assert scores_of(out) == scores
    assert (out / "chunks/00-0000" / ROWS).stat().st_mtime_ns == kept
    assert read_manifest(out, verify=True).rows == 60


def test_a_stop_between_two_batches_ends_the_run_and_it_goes_on(
    tmp_path: Path, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes while the third chunk is scored."""
    out, real, calls = tmp_path / "out", score.score_answers, []

    def score_answers(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(score, "score_answers", score_answers)
    assert scored(out, folders) == Stopped.exit_code
    assert "goes on from its last checkpoint" in message_of(out)
    assert len(list(out.glob(f"chunks/*/{MANIFEST}"))) == 2
    assert scored(out, folders) == 0
    assert len(scores_of(out)) == 60 and len(calls) == 3 + 4


@pytest.mark.slow
def test_a_kill_ends_a_run_and_a_retry_goes_on(tmp_path: Path, folders: dict[str, Any]) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert scored(whole, folders, chunk=1) == 0
    config = config_file(out, folders, chunk=1)
    command = [sys.executable, "-W", "error", "-m", "trainer", "score", "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        while not (out / "chunks/00-0000" / MANIFEST).exists():
            assert child.poll() is None
            time.sleep(0.001)
        child.kill()
        child.wait(60)
    assert scored(out, folders, chunk=1) == 0
    assert scores_of(out) == pytest.approx(scores_of(whole), abs=1e-6)
    read_manifest(out, verify=True)


def test_chunks_of_other_reward_models_are_refused(tmp_path: Path, folders: dict[str, Any]) -> None:
    out = tmp_path / "out"
    assert scored(out, folders) == 0
    (out / MANIFEST).unlink()
    folders["rewards"].reverse()
    assert scored(out, folders) == IntegrityError.exit_code
    assert "Chunk 00-0000 was made with other settings or parents" in message_of(out)


# ---- refusals ---------------------------------------------------------------------------------


def replaced(folders: dict[str, Any], line: int, text: str) -> None:
    """The second chunk with another line, and a manifest that says so."""
    folder = folders["samples"]
    path = folder / "chunks/0001" / ROWS
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = text + "\n"
    digest = write_atomic(path, lines)
    manifest = read_manifest(folder)
    manifest.files[f"chunks/0001/{ROWS}"] = digest
    write_manifest(folder, manifest)


def test_a_malformed_answer_is_named_by_its_line(tmp_path: Path, folders: dict[str, Any]) -> None:
    replaced(folders, 3, '{"prompt_id": "p6", "index": "zero"}')
    assert scored(tmp_path / "a", folders) == DataError.exit_code
    assert message_of(tmp_path / "a").startswith("chunks/0001: rows.jsonl line 3.index is 'zero'")
    row = SampleRow("nowhere", 0, "Yes.", (1,), True, 0, 1.0, 8)
    replaced(folders, 3, row_line(row).strip())
    assert scored(tmp_path / "b", folders) == DataError.exit_code
    said = "chunks/0001/rows.jsonl line 3 answers the prompt 'nowhere', which is not among"
    assert message_of(tmp_path / "b").startswith(said)


def test_an_answer_that_is_there_twice_is_refused(tmp_path: Path, folders: dict[str, Any]) -> None:
    first = (folders["samples"] / "chunks/0000" / ROWS).read_text().splitlines()[0]
    replaced(folders, 1, first)
    assert scored(tmp_path / "out", folders) == DataError.exit_code
    assert "two answers of one prompt with the same index" in message_of(tmp_path / "out")


def test_answers_that_do_not_belong_to_the_settings_are_refused(
    tmp_path: Path, folders: dict[str, Any]
) -> None:
    changed = [prompt_row(i, use_case="chat") for i in range(10)]
    others = write_snapshot(tmp_path / "others", "prompts", changed)
    assert scored(tmp_path / "a", folders | {"prompts": others}) == IntegrityError.exit_code
    assert "were not drawn with the prompts others of the settings" in message_of(tmp_path / "a")
    with (folders["samples"] / "chunks/0000" / ROWS).open("a") as altered:
        altered.write("\n")
    assert scored(tmp_path / "b", folders) == IntegrityError.exit_code
    assert "is not what its manifest says" in message_of(tmp_path / "b")
    assert scored(tmp_path / "c", folders | {"samples": others}) == IntegrityError.exit_code
    assert "is of stage prompts" in message_of(tmp_path / "c")


def test_no_answers_and_no_or_equal_reward_models_are_refused(
    tmp_path: Path, folders: dict[str, Any]
) -> None:
    model, prompts = folders["model"], folders["prompts"]
    empty = write_answers(tmp_path / "empty", model, prompts, files={}, rows=0)
    assert scored(tmp_path / "a", folders | {"samples": empty}) == DataError.exit_code
    assert "has no answers to score" in message_of(tmp_path / "a")
    assert scored(tmp_path / "b", folders | {"rewards": []}) == ConfigError.exit_code
    assert "must name one reward model at least" in message_of(tmp_path / "b")
    twice = [folders["rewards"][0]] * 2
    assert scored(tmp_path / "c", folders | {"rewards": twice}) == ConfigError.exit_code
    assert "names a reward model twice" in message_of(tmp_path / "c")


def test_a_score_that_is_no_number_is_refused(
    tmp_path: Path, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "score_answers", lambda *args: torch.full((12,), math.nan))
    assert scored(tmp_path / "out", folders) == NumericError.exit_code
    assert "scores answer 0 to prompt p0 with nan" in message_of(tmp_path / "out")
