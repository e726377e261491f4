"""What PPO's settings add to a checkpoint survives a kill: the KL coefficient, the best weights,
an update that ended early, and the null space, which is made again from the start weights.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.resuming import (
    assert_as_unbroken,
    assert_goes_on_after_a_kill,
    config_file,
    figures,
)
from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import reward_model
from tests.trainer.tiny import build_tiny
from trainer import rollout
from trainer.__main__ import main
from trainer.errors import Stopped
from trainer.runtime import Optimiser

pytestmark = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "control": {
        "kl_control": "adaptive",
        "kl_target": 0.05,
        "kl_horizon": 50,
        "whiten_rewards": True,
        "target_kl_stop": 0.002,
        "epochs": 3,
        "keep_best": True,
        "ema_decay": 0.5,
    },
    "null space": {
        "against_forgetting": "null_space",
        "null_space_gradients": 3,
        "null_space_sequences": 2,
        "ema_decay": 0.0,
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The settings of each, of three rollout batches, and an unbroken run of them."""
    root = tmp_path_factory.mktemp("resume")
    data = {name: str(path) for name, path in write_all(root / "data").items()}
    tiny = build_tiny(root / "tiny", "gpt2")
    shared = {
        "policy": str(tiny),
        "reward": str(reward_model(tiny, root / "rm")),
        "prompts": data["prompts"],
        "pretrain_text": data["pretrain_text"],
        "learning_rate": 1e-3,
        "value_learning_rate": 1e-3,
        "precision": "fp32",
        "seed": 4,
        "threads": 1,
        "episodes": 24,
        "batch": 8,
        "minibatch": 4,
        "max_new_tokens": 8,
        "ptx_per_episode": 0.5,
        "ptx_tokens": 12,
        "warmup": 0,
        "freeze_layers": 1,
        "checkpoint_every": 1,
    }
    found = {name: shared | changes for name, changes in SETTINGS.items()}
    for name, settings in found.items():
        assert main(["ppo", "--config", str(config_file(settings, root / name))]) == 0
        settings["unbroken"] = root / name
    return found


def test_the_unbroken_run_has_what_is_to_be_resumed(runs: dict[str, dict[str, Any]]) -> None:
    lines = figures(runs["control"]["unbroken"])
    assert min(line["update_steps"] for line in lines) < 6
    assert len({line["kl_coef"] for line in lines}) == 3
    assert lines[0]["best_iteration"] == 1
    assert all(0 < line["null_space_kept"] < 1 for line in figures(runs["null space"]["unbroken"]))


@pytest.mark.parametrize("place", ["step", "rename"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_ends_as_an_unbroken_one(
    runs: dict[str, dict[str, Any]], tmp_path: Path, name: str, place: str
) -> None:
    number = {"step": 5, "rename": 2}[place]  # after the checkpoint of a first rollout batch
    assert_goes_on_after_a_kill(runs[name], "ppo", tmp_path / "run", place, number, checkpoints=1)


@pytest.mark.parametrize(
    ("name", "place", "number"),
    [
        ("control", "step", 4),
        ("control", "look", 2),
        ("control", "look", 6),
        ("null space", "step", 3),
    ],
)
def test_a_run_asked_to_stop_goes_on_inside_its_rollout_batch(
    runs: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    place: str,
    number: int,
) -> None:
    """Also while it looks at the held-out prompts (the second time it draws answers, and the
    last): the look is taken again, or the best weights would be others.
    """
    owner, attribute = {"step": (Optimiser, "step"), "look": (rollout, "generate")}[place]
    real, calls = getattr(owner, attribute), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, attribute, counted)
    out = tmp_path / "run"
    config = config_file(runs[name], out)
    assert main(["ppo", "--config", str(config)]) == Stopped.exit_code
    (checkpoint,) = (out / "checkpoints").glob("*.pt")
    assert torch.load(checkpoint, weights_only=True)["in_work"]
    assert main(["ppo", "--config", str(config)]) == 0
    assert_as_unbroken(out, runs[name]["unbroken"])
