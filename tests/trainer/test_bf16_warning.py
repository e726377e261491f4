"""A processor that has no bf16 instructions: the run says so, once, and goes on."""

import pytest
import torch

from trainer import __main__ as command
from trainer import stack
from trainer.config import SFTConfig


@pytest.mark.parametrize(
    ("precision", "instructions", "said"),
    [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)],
)
def test_a_run_in_bf16_says_where_that_is_slow(
    precision: str,
    instructions: bool,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stack, "has_bf16", lambda device: instructions)
    command._warn_of_bf16("sft", SFTConfig(out="run", model="m", precision=precision))
    shown = capsys.readouterr().err
    assert ('set "precision": "fp32"' in shown) == said
    assert shown.count("\n") == said


def test_an_accelerator_is_taken_to_have_them() -> None:
    assert stack.has_bf16(torch.device("cuda"))
