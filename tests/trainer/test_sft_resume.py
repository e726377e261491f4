"""An SFT run with packing, a mixture and a reward model, killed or stopped anywhere, ends alike."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.resuming import (
    assert_as_unbroken,
    assert_goes_on_after_a_kill,
    config_file,
)
from tests.trainer.sft_cast import build_reward
from tests.trainer.snapshots import demonstration_row, write_snapshot
from tests.trainer.tiny import build_tiny
from trainer import judge
from trainer.__main__ import main
from trainer.errors import Stopped

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of six optimiser steps in three epochs, and an unbroken run of them."""
    root = tmp_path_factory.mktemp("sft")
    folders = [
        write_snapshot(root / name, "demonstrations", [demonstration_row(i) for i in rows])
        for name, rows in (("main", range(12)), ("more", range(20, 32)))
    ]
    tiny = build_tiny(root / "tiny", "gpt2")  # has dropout: the random state matters
    settings: dict[str, Any] = {
        "model": str(tiny),
        "demonstrations": str(folders[0]),
        "mixture": [{"demonstrations": str(folders[1]), "weight": 0.5, "cap": 4}],
        "reward": str(build_reward(root / "rm", tiny, pad_id=0)),
        "pack": True,
        "pack_tokens": 120,
        "learning_rate": 1e-2,
        "residual_dropout": 0.2,
        "seed": 4,
        "batch": 8,
        "epochs": 3,
        "threads": 1,
        "checkpoint_every": 3,
        "max_tokens": 200,
        "eval_new_tokens": 6,
    }
    assert main(["sft", "--config", str(config_file(settings, root / "run"))]) == 0
    return settings | {"unbroken": root / "run"}


def best(out: Path) -> tuple[int, float]:
    metrics = json.loads((out / "manifest.json").read_text())["metrics"]
    return metrics["best_step"], metrics["valid_reward"]


@pytest.mark.parametrize(("place", "number"), [("step", 5), ("rename", 2)])
def test_a_killed_run_keeps_the_best_weights_of_before(
    sft: dict[str, Any], tmp_path: Path, place: str, number: int
) -> None:
    out = tmp_path / "run"
    assert_goes_on_after_a_kill(sft, "sft", out, place, number)
    assert best(out) == best(sft["unbroken"])


def test_a_run_asked_to_stop_while_it_answers_held_out_prompts_goes_on_there(
    sft: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step before is done and its figures are in the checkpoint; they are logged once."""
    real, looks = judge.generate, 0

    def stopped(*args: Any, **kwargs: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(judge, "generate", stopped)
    out = tmp_path / "run"
    config = config_file(sft, out)
    assert main(["sft", "--config", str(config)]) == Stopped.exit_code
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000004.pt"]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert main(["sft", "--config", str(config)]) == 0
    assert_as_unbroken(out, sft["unbroken"])
    assert best(out) == best(sft["unbroken"])
