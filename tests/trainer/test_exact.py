"""What a run asks of CUDA so that it comes to the same sums when it goes on; nothing on a CPU."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import reward, sample, serve, stack
from trainer.__main__ import _prepare, main

MADE = {"reward": reward, "sample": sample, "serve": serve}
SETTINGS: dict[str, dict[str, Any]] = {
    "reward": {"model": "m", "comparisons": "c"},
    "sample": {"model": "m", "prompts": "p"},
    "serve": {},
}
ASKED = [((True,), {"warn_only": True})]


@pytest.mark.parametrize(
    ("stage", "device", "asked"),
    [
        ("reward", "cuda", ASKED),
        ("reward", "cpu", []),
        ("sample", "cuda", []),
        ("serve", "cuda", []),
    ],
)
def test_training_asks_cuda_alone_for_the_same_sums_each_time(
    stage: str, device: str, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    begun: list[Any] = []  # what was asked for when the stage began
    monkeypatch.setattr(stack, "pick_device", lambda: torch.device(device))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda *args, **named: calls.append((args, named))
    )
    monkeypatch.setattr(MADE[stage], "run", lambda *given: begun.append(list(calls)))
    settings = SETTINGS[stage] | {"precision": "fp32"}
    if stage != "serve":
        settings["out"] = str(tmp_path / "run")
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert main([stage, "--config", str(tmp_path / "settings.json")]) == 0
    assert begun == [asked]
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert filled == (asked == [])


def test_cublas_is_told_a_workspace_unless_it_was_told_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "CUBLAS_WORKSPACE_CONFIG"
    monkeypatch.delenv(name, raising=False)
    _prepare()
    assert os.environ[name] == ":4096:8"
    monkeypatch.setenv(name, ":16:8")
    _prepare()
    assert os.environ[name] == ":16:8"
