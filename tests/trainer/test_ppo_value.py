"""The value model of a run is kept, and another run may start from it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import CPU, Scene, ppo_folders, reward_model, settings, train
from trainer import ppo
from trainer.actors import EARLIER_VALUE, Actors
from trainer.config import config_from_plain
from trainer.errors import ConfigError, ModelError
from trainer.padded import pad
from trainer.records import read_manifest
from trainer.stage_io import Run, open_run

pytestmark = pytest.mark.slow

SHORT = {"episodes": 8, "ptx_coef": 0.0, "save_value": True, "eval_prompts": 0}
SOME = pad([[5, 9, 7, 3, 11], [8, 1, 2]], 0, CPU)


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    return ppo_folders(tmp_path, tiny_model)


@pytest.mark.parametrize("known", [None, "concise"])
def test_it_is_saved_as_it_is_after_the_last_step(
    tmp_path: Path,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    known: str | None,
) -> None:
    """Whether it began as the reward model or on the policy."""
    given: dict[str, Any] = {**folders, "reward": "" if known else folders["reward"]}
    works: list[ppo.Work] = []
    real = ppo.train

    def kept(work: ppo.Work) -> dict[str, float]:
        works.append(work)
        return real(work)

    monkeypatch.setattr(ppo, "train", kept)
    out = tmp_path / "run"
    config = settings(out, given, freeze_layers=1, reward_function=known, **SHORT)
    start = Actors(config).value.values(SOME)
    train(config)
    found = works[0].actors.value.values(SOME)
    assert not torch.allclose(found, start, atol=1e-3)
    assert any(name.startswith("value/") for name in read_manifest(out, verify=True).files)

    value = str(out / "value")
    again = Actors(settings(tmp_path / "next", given, value=value, reward_function=known))
    torch.testing.assert_close(again.value.values(SOME), found, atol=1e-6, rtol=1e-6)
    assert again.value.model.score.bias.requires_grad
    assert again.notes[0] == EARLIER_VALUE


def test_a_run_from_it_names_it_and_scores_with_the_reward_model(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    train(settings(tmp_path / "first", folders, **SHORT))
    value = str(tmp_path / "first" / "value")
    plain = Scene(settings(tmp_path / "plain", folders, freeze_layers=1))
    other = Scene(settings(tmp_path / "other", folders, freeze_layers=1, value=value))
    assert torch.equal(plain.scored.logprobs, other.scored.logprobs)
    torch.testing.assert_close(plain.scored.scores, other.scored.scores, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(plain.scored.values, other.scored.values, atol=1e-3)
    train(settings(tmp_path / "second", folders, **SHORT | {"value": value, "save_value": False}))
    manifest = read_manifest(tmp_path / "second")
    parents = {parent.role: parent.name for parent in manifest.parents}
    assert parents["value"] == "first"
    assert EARLIER_VALUE in manifest.notes
    assert not (tmp_path / "second" / "value").exists()


def test_one_of_another_tokenizer_is_refused(
    tmp_path: Path, tiny_llama: Path, tiny_gpt2: Path
) -> None:
    folders = write_all(tmp_path / "data") | {"policy": tiny_llama}
    folders["reward"] = reward_model(tiny_llama, tmp_path / "rm")
    value = reward_model(tiny_gpt2, tmp_path / "value")
    config = settings(tmp_path / "run", folders, value=str(value))
    with open_run(config.out) as run, pytest.raises(ModelError, match="has another tokenizer"):
        ppo.run(config, run)
    assert not Run(tmp_path / "run").finished


@pytest.mark.parametrize("change", [{"value": "v"}, {"save_value": True}])
def test_lora_goes_with_neither(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="With LoRA the value model is an adapter"):
        config_from_plain("ppo", {"out": "o", "lora_rank": 2} | change)
