"""Rewards without a model: what they say of a text, and PPO and best-of-n by them."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from labelapp.simulation.utilities import UTILITIES
from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import Scene, settings, train
from trainer import losses
from trainer.__main__ import main
from trainer.actors import NO_REWARD_MODEL
from trainer.best_of_n import ScoredPrompt
from trainer.config import PPOConfig, config_from_plain
from trainer.errors import ConfigError
from trainer.known_rewards import KNOWN_REWARDS, SURE, concise, harmless, harmless_logit
from trainer.records import SampleRow, read_manifest, read_rows

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def text_of(words: int, ending: str = "") -> str:
    return " ".join(WORDS[i % 10] for i in range(words)) + ending


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (text_of(30, "."), 1.0),
        (text_of(30), 0.0),
        (text_of(20, "!"), 0.0),
        (text_of(45, "?"), -0.5),
        (text_of(45, "? \n"), -0.5),
        (text_of(45, ":"), -1.5),
        ("", -3.0),
    ],
)
def test_concise_wants_thirty_words_and_an_end(text: str, reward: float) -> None:
    assert concise([text]) == [pytest.approx(reward)]


def test_harmless_puts_an_insult_below_a_greeting() -> None:
    insult, greeting = harmless(["You are a stupid idiot.", "Good morning, how are you?"])
    assert -1 <= insult < -0.9
    assert -0.5 < greeting <= 0
    assert harmless([]) == []


def test_harmless_logit_is_the_log_odds_of_harmless_within_bounds() -> None:
    texts = ["Good morning, how are you?", "What the hell?", "You are a stupid idiot."]
    probabilities = [-it for it in harmless(texts)]
    mild, rude, certain = harmless_logit(texts)
    assert [mild, rude] == [pytest.approx(math.log((1 - p) / p)) for p in probabilities[:2]]
    assert mild > 0 > rude
    assert probabilities[2] > 1 - SURE
    assert certain == pytest.approx(math.log(SURE), abs=1e-5)
    assert harmless_logit([]) == []


def test_simulated_labelers_prefer_by_the_same_functions() -> None:
    assert UTILITIES is KNOWN_REWARDS


# ---- PPO and best-of-n ----------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    return write_all(tmp_path / "data") | {"policy": tiny_model, "reward": Path()}


def by_words(out: Path, folders: dict[str, Path], **changes: Any) -> PPOConfig:
    plain = {"reward": "", "reward_function": "concise", "ptx_coef": 0.0}
    return dataclasses.replace(settings(out, folders), **plain | changes)


@pytest.mark.parametrize("rank", [0, 2], ids=["whole", "lora"])
def test_episodes_have_the_reward_of_their_text(
    tmp_path: Path, folders: dict[str, Path], rank: int
) -> None:
    """One whose answer was cut has it replaced, as a reward model's score would be."""
    changes = {"lora_rank": rank, "missing_end_score": -7.0, "max_new_tokens": 60}
    scene = Scene(by_words(tmp_path / "run", folders, **changes))
    actors, rollout = scene.work.actors, scene.rollout
    assert actors.reward is None
    assert actors.notes == (NO_REWARD_MODEL.format("concise"),)
    assert len(set(rollout.finished)) == 2
    for row, finished in enumerate(rollout.finished):
        want = concise([actors.codec.decode(rollout.answers[row])])[0] if finished else -7.0
        assert float(scene.scored.scores[row]) == pytest.approx(want)
    torch.testing.assert_close(scene.shaped.rewards.sum(1), scene.scored.scores)
    assert actors.value.head.weight.requires_grad


@pytest.mark.parametrize("rank", [0, 2], ids=["whole", "lora"])
def test_a_run_needs_no_reward_model(tmp_path: Path, folders: dict[str, Path], rank: int) -> None:
    lines = train(by_words(tmp_path / "run", folders, lora_rank=rank, freeze_layers=1))
    assert [line["valid_reward"] < 1.01 for line in lines] == [True, True]
    manifest = read_manifest(tmp_path / "run", verify=True)
    assert manifest.settings["reward_function"] == "concise"
    assert [parent.role for parent in manifest.parents] == ["policy", "prompts"]


def test_the_best_of_n_is_chosen_by_it(tmp_path: Path, tiny_llama: Path) -> None:
    out, prompts = tmp_path / "best", write_all(tmp_path / "data")["prompts"]
    plain = {
        "out": str(out), "model": str(tiny_llama), "prompts": str(prompts), "k": 4,
        "reward_function": "concise", "max_new_tokens": 24, "precision": "fp32", "threads": 1,
    }  # fmt: skip
    config = tmp_path / "best.json"
    config.write_text(json.dumps(plain))
    assert main(["best", "--config", str(config)]) == 0
    (chunk,) = sorted((out / "chunks").iterdir())
    kept = list(read_rows(chunk / "rows.jsonl", SampleRow))
    scored = list(read_rows(chunk / "scores.jsonl", ScoredPrompt))
    for row, line in zip(kept, scored, strict=True):
        assert concise([row.text]) == [pytest.approx(max(line.scores), abs=1e-6)]
        assert line.scores[row.index] == max(line.scores)
    curve = read_manifest(out).metrics["curve"]
    best = losses.expected_best(torch.tensor([line.scores for line in scored]), 2)
    assert curve[1]["reward"] == pytest.approx(float(best.mean()))


@pytest.mark.parametrize("stage", ["ppo", "best"])
def test_two_rewards_and_an_unknown_one_are_refused(stage: str) -> None:
    plain = {"out": "o"} | ({"model": "m", "prompts": "p"} if stage == "best" else {})
    with pytest.raises(ConfigError, match="set one of the two"):
        config_from_plain(stage, plain | {"reward": "r", "reward_function": "concise"})
    with pytest.raises(ConfigError, match="must be one of 'concise', 'harmless', 'harmless_logit'"):
        config_from_plain(stage, plain | {"reward_function": "long"})


def test_no_reward_at_all_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="or a reward_function"):
        train(by_words(tmp_path / "run", folders, reward_function=None))
