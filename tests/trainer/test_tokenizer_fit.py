"""A tokenizer with more tokens than its model has embeddings ends every stage with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.resuming import command, config_file
from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import reward_model
from tests.trainer.tiny import build_tiny
from trainer.__main__ import main
from trainer.errors import ModelError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("fit")
    wrong = build_tiny(root / "wrong", "llama")
    tokenizer = json.loads((wrong / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 384, "content": "<x>"})
    (wrong / "tokenizer.json").write_text(json.dumps(tokenizer))
    right = build_tiny(root / "right", "llama")
    reward_model(wrong, root / "wrong rm")
    found = write_all(root / "data") | {"wrong": wrong, "right": right}
    found |= {"wrong rm": root / "wrong rm", "right rm": reward_model(right, root / "right rm")}
    return {name: str(path) for name, path in found.items()}


SETTINGS: dict[str, dict[str, Any]] = {
    "pretrain": {"model": "wrong", "text": "pretrain_text"},
    "text": {"model": "wrong"},
    "sft": {"model": "wrong", "demonstrations": "demonstrations"},
    "sft judged": {"model": "right", "demonstrations": "demonstrations", "reward": "wrong rm"},
    "reward": {"model": "wrong", "comparisons": "comparisons"},
    "ppo": {"policy": "wrong", "reward": "right rm", "prompts": "prompts"},
    "ppo scored": {"policy": "right", "reward": "wrong rm", "prompts": "prompts"},
    "sample": {"model": "wrong", "prompts": "prompts"},
    "best": {"model": "right", "reward": "wrong rm", "prompts": "prompts"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_tokenizer_that_is_too_large_for_its_model_ends_the_stage(
    folders: dict[str, str], tmp_path: Path, name: str
) -> None:
    settings = {key: folders[value] for key, value in SETTINGS[name].items()}
    if "ppo" in name:
        settings["pretrain_text"] = folders["pretrain_text"]
    out = tmp_path / "run"
    assert main(command(name, config_file(settings, out))) == ModelError.exit_code
    error = json.loads((out / "error.json").read_text())
    assert error["code"] == ModelError.exit_code
    assert "ids up to 384, the model only 384 embeddings" in error["message"]
