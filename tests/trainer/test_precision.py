"""The precision of a run: settled by the machine where the settings say ``auto``, and kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainer.snapshots import prompt_row, write_snapshot
from trainer import stack
from trainer.__main__ import main
from trainer.config import SFTConfig
from trainer.errors import IntegrityError
from trainer.precision import settle, warn_where_slow
from trainer.records import read_manifest

Machine = Callable[[bool], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this machine one with instructions for bf16, or one without."""

    def make(instructions: bool) -> None:
        monkeypatch.setattr(stack, "has_bf16", lambda device: instructions)

    return make


@pytest.mark.parametrize(("instructions", "meant"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_machine_is_fast_in(
    instructions: bool, meant: str, machine: Machine
) -> None:
    machine(instructions)
    assert settle(SFTConfig(out="run", model="m")).precision == meant


@pytest.mark.parametrize("named", ["bf16", "fp32"])
def test_a_precision_that_is_named_stays(named: str, machine: Machine, tmp_path: Path) -> None:
    machine(named != "bf16")
    config = SFTConfig(out="run", model="m", precision=named)  # type: ignore[arg-type]
    assert settle(config, tmp_path) is config
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_in_its_precision_on_another_machine(
    machine: Machine, tmp_path: Path
) -> None:
    config = SFTConfig(out=str(tmp_path), model="m")
    machine(False)
    assert settle(config, tmp_path).precision == "fp32"
    machine(True)
    assert settle(config, tmp_path).precision == "fp32"


@pytest.mark.parametrize("held", ["", "auto\n", "fp16\n"])
def test_a_damaged_choice_is_refused(held: str, tmp_path: Path) -> None:
    (tmp_path / "precision").write_text(held)
    with pytest.raises(IntegrityError, match="fp32 or bf16"):
        settle(SFTConfig(out="run", model="m"), tmp_path)


@pytest.mark.parametrize(("instructions", "meant"), [(True, "bf16"), (False, "fp32")])
def test_a_run_says_what_was_chosen(
    instructions: bool, meant: str, machine: Machine, tiny_llama: Path, tmp_path: Path
) -> None:
    machine(instructions)
    out = tmp_path / "out"
    out.mkdir()
    prompts = write_snapshot(tmp_path / "prompts", "prompts", [prompt_row(0), prompt_row(1)])
    plain = {"out": str(out), "model": str(tiny_llama), "prompts": str(prompts), "k": 1}
    config = out / "config.json"
    config.write_text(json.dumps(plain | {"max_new_tokens": 4}))
    assert main(["sample", "--config", str(config)]) == 0
    manifest = read_manifest(out, verify=True)
    assert manifest.settings["precision"] == meant
    assert not any("precision" in name for name in manifest.files)


@pytest.mark.parametrize(
    ("precision", "instructions", "said"),
    [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)],
)
def test_a_run_in_bf16_says_where_that_is_slow(
    precision: str,
    instructions: bool,
    said: bool,
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(instructions)
    warn_where_slow("sft", precision)  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert ('set "precision": "auto"' in shown) == said
    assert shown.count("\n") == said


def test_an_accelerator_is_taken_to_have_them() -> None:
    assert stack.has_bf16(torch.device("cuda"))


def test_nothing_computes_in_a_precision_that_was_not_settled() -> None:
    with pytest.raises(KeyError, match="auto"):
        stack.autocast(torch.device("cpu"), "auto")
