"""The weights that are kept: those a reward model scores highest, else the lowest loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.trainer.sft_cast import CPU, build_reward, config, train
from tests.trainer.snapshots import demonstration_row, write_snapshot
from trainer import sft
from trainer.config import SFTConfig
from trainer.errors import ConfigError, IntegrityError
from trainer.generate import Generated
from trainer.judge import OTHER_TOKENIZER, Judge, held_out_prompts
from trainer.models import LanguageModel
from trainer.records import read_manifest
from trainer.runtime import Checkpoints
from trainer.text import Codec

FAST = {"learning_rate": 1e-2, "eval_prompts": 6, "eval_new_tokens": 12}


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    rows = [demonstration_row(i) for i in range(24)]
    return write_snapshot(tmp_path / "demonstrations", "demonstrations", rows)


@pytest.fixture
def reward(tmp_path: Path, tiny_model: Path) -> Path:
    pad_id = Codec.load(tiny_model).pad_id
    return build_reward(tmp_path / "first-rm", tiny_model, pad_id=pad_id, bias=0.5)


def judge_of(settings: SFTConfig) -> Judge:
    assert settings.reward is not None
    return Judge(settings, settings.reward, Codec.load(settings.model), 256)


@pytest.mark.slow
def test_the_weights_kept_are_those_the_reward_model_scores_highest(
    tmp_path: Path, tiny_model: Path, demonstrations: Path, reward: Path
) -> None:
    out = tmp_path / "run"
    settings = config(out, tiny_model, demonstrations, reward=str(reward), epochs=6, **FAST)
    lines = [line for line in train(settings) if "valid_loss" in line]
    assert len(lines) == 6
    scores = [line["valid_reward"] for line in lines]
    losses = [line["valid_loss"] for line in lines]
    assert len(set(scores)) > 3
    manifest = read_manifest(out, verify=True)
    best, metrics = scores.index(max(scores)) + 1, manifest.metrics
    assert (metrics["best_epoch"], metrics["valid_reward"]) == (best, max(scores))
    assert metrics["valid_loss"] == losses[best - 1]
    assert metrics["lowest_valid_loss"] == min(losses)
    assert metrics["lowest_valid_loss_epoch"] == losses.index(min(losses)) + 1
    assert f"those of epoch {best} of 6, whose answers score highest" in manifest.notes[-1]
    role = next(parent for parent in manifest.parents if parent.role == "reward")
    assert role.name in manifest.notes[-1] and role.name == "first-rm"
    saved = LanguageModel.load(out / "model", 0, "fp32", CPU)
    again = judge_of(settings).look(saved, lambda: None)
    assert again["valid_reward"] == pytest.approx(max(scores), abs=1e-5)
    assert set(again) == {"valid_reward", "valid_end_rate", "valid_response_length"}


def test_a_loss_that_rises_while_the_score_does_is_expected_and_said(
    tmp_path: Path, tiny_llama: Path
) -> None:
    settings = config(tmp_path, tiny_llama, tmp_path, reward="x", epochs=8)
    trainee = sft.Trainee(settings, Checkpoints(tmp_path, settings, []))
    trainee.lowest = {"valid_loss": 2.0, "valid_reward": 0.1, "epoch": 1, "step": 3}
    trainee.chosen = {"valid_loss": 2.6, "valid_reward": 0.9, "epoch": 7, "step": 21}
    parents = [sft.Parent("reward", "rm-2", "0")]
    said = sft.kept_note(trainee, parents)
    assert "epoch 7 of 8, whose answers score highest with the reward model rm-2" in said
    assert "lowest in epoch 1 and rose afterwards: that overfitting is expected" in said
    trainee.lowest = trainee.chosen
    assert "overfitting" not in sft.kept_note(trainee, parents)


def test_a_score_is_the_reward_models_at_the_last_token_with_its_bias(
    tmp_path: Path, tiny_model: Path, demonstrations: Path, reward: Path
) -> None:
    """Against the plain model of that folder, one answer at a time, without padding."""
    settings = config(tmp_path, tiny_model, demonstrations, reward=str(reward), **FAST)
    judge, end = judge_of(settings), min(Codec.load(tiny_model).end_ids)
    answers = [Generated([40 + i] * (i + 1) + [end], True) for i in range(len(judge.prompts))]
    plain: Any = AutoModelForSequenceClassification.from_pretrained(reward).eval()
    want = []
    for prompt, answer in zip(judge.prompts, answers, strict=True):
        hidden = plain.base_model(torch.tensor([prompt.ids + answer.token_ids]))[0][0, -1]
        want.append(float(plain.score(hidden).detach()) + 0.5)
    assert len(want) == 3
    assert judge.scores(answers, lambda: None).tolist() == pytest.approx(want, abs=1e-5)


@pytest.mark.slow
def test_answers_are_encoded_again_for_a_reward_model_of_another_tokenizer(
    tmp_path: Path, tiny_llama: Path, tiny_gpt2: Path, demonstrations: Path
) -> None:
    folder = build_reward(tmp_path / "other-rm", tiny_gpt2, pad_id=0)
    settings = config(tmp_path / "r", tiny_llama, demonstrations, reward=str(folder), **FAST)
    judge, mine, its = judge_of(settings), Codec.load(tiny_llama), Codec.load(tiny_gpt2)
    prompt = judge.prompts[0]
    for finished in (True, False):
        answer = Generated(mine.encode_completion("Enough for us.", ended=finished), finished)
        read = judge._read(prompt, answer)
        question = its.encode_prompt(prompt.row.prompt)
        assert read == question + its.encode_completion("Enough for us.", ended=finished)
    assert judge.notes == (OTHER_TOKENIZER,)
    train(settings)
    assert OTHER_TOKENIZER in read_manifest(tmp_path / "r").notes


@pytest.mark.slow
def test_looking_neither_draws_random_numbers_nor_changes_the_model(
    tmp_path: Path, tiny_gpt2: Path, demonstrations: Path
) -> None:
    folder = build_reward(tmp_path / "rm", tiny_gpt2, pad_id=0)
    settings = config(tmp_path, tiny_gpt2, demonstrations, reward=str(folder), **FAST)
    model = LanguageModel.load(tiny_gpt2, 0, "fp32", CPU)
    model.stack.train(True)
    before = torch.get_rng_state()
    judge = judge_of(settings)
    first, second = (judge.look(model, lambda: None) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    other = SFTConfig(**vars(settings) | {"seed": 1})
    assert judge_of(other).look(model, lambda: None) != first


def test_the_valid_split_can_be_looked_at_more_often_than_once_an_epoch(
    tmp_path: Path, tiny_llama: Path, demonstrations: Path
) -> None:
    settings = config(tmp_path / "run", tiny_llama, demonstrations, eval_every=2, epochs=2, batch=5)
    lines = train(settings)
    looked = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
    assert len(lines) == 8 and list(looked) == [2, 4, 6, 8]
    manifest = read_manifest(tmp_path / "run")
    best = min(looked, key=lambda step: looked[step])
    assert (manifest.metrics["best_step"], manifest.metrics["best_epoch"]) == (best, -(-best // 4))
    assert f"epoch {-(-best // 4)} of 2 (step {best}), which has the lowest" in manifest.notes[-1]


def test_the_prompts_are_distinct_valid_ones_with_room_to_answer(
    tmp_path: Path, tiny_llama: Path
) -> None:
    rows = [
        demonstration_row(0),
        demonstration_row(1, split="valid", prompt_id="same"),
        demonstration_row(2, split="valid", prompt_id="same"),
        demonstration_row(3, split="test"),
        demonstration_row(4, split="valid", completion="word " * 300),
        demonstration_row(5, split="valid"),
    ]
    folder = write_snapshot(tmp_path / "d", "demonstrations", rows)
    codec = Codec.load(tiny_llama)
    settings = config(tmp_path, tiny_llama, folder, eval_new_tokens=20)
    assert [p.id for p in held_out_prompts(settings, codec, 256)] == ["same", "p4", "p5"]
    few = config(tmp_path, tiny_llama, folder, eval_prompts=2, eval_new_tokens=20)
    assert [p.id for p in held_out_prompts(few, codec, 256)] == ["same", "p4"]
    with pytest.raises(ConfigError, match="none has a prompt of at most 10 tokens"):
        held_out_prompts(settings, codec, 30)


def test_a_reward_that_is_not_a_finished_reward_model_is_refused(
    tmp_path: Path, tiny_llama: Path, demonstrations: Path
) -> None:
    with pytest.raises(IntegrityError, match="does not exist"):
        train(config(tmp_path / "r", tiny_llama, demonstrations, reward=str(tmp_path / "none")))
