"""The identities of PPO's first step: ratio one, no KL, values that are scores, padding that is nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.test_ppo import CPU, Scene, ppo_folders, settings, train
from trainer import losses


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    return ppo_folders(tmp_path, tiny_model)


@pytest.fixture
def scene(tmp_path: Path, folders: dict[str, Path]) -> Scene:
    return Scene(settings(tmp_path / "run", folders))


@pytest.fixture
def log_ratios(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows by the largest |log ratio| of a real token whenever a policy loss is asked for."""
    found: list[float] = []
    real = losses.policy_loss

    def policy_loss(
        logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *rest: Any
    ) -> losses.PolicyLoss:
        found.append(float((logprobs.detach() - old)[mask].abs().max()))
        return real(logprobs, old, advantages, mask, *rest)

    monkeypatch.setattr(losses, "policy_loss", policy_loss)
    return found


def test_the_first_minibatch_has_ratio_one(scene: Scene, log_ratios: list[float]) -> None:
    """Up to rounding: its episodes were scored in other company."""
    scene.gradients([3, 1, 6], [])
    assert len(log_ratios) == 1
    assert log_ratios[0] < 1e-5
    assert scene.figures["clip_fraction"] == 0
    assert scene.figures["approx_kl"] == pytest.approx(0, abs=1e-7)


def test_in_the_company_they_were_scored_in_episodes_have_exactly_ratio_one(
    tmp_path: Path, folders: dict[str, Path], log_ratios: list[float]
) -> None:
    scene = Scene(settings(tmp_path / "run", folders, micro_tokens=1, temperature=0.7))
    scene.gradients([3, 1, 6], [])
    assert log_ratios == [0.0, 0.0, 0.0]
    assert scene.figures["approx_kl"] == 0


def test_the_policy_loss_of_the_whole_first_batch_is_zero(scene: Scene) -> None:
    scene.gradients(list(range(8)), [])
    assert scene.figures["policy_loss"] == pytest.approx(0, abs=1e-6)


def test_a_policy_equal_to_its_reference_gets_the_score_as_its_whole_reward(scene: Scene) -> None:
    assert torch.equal(scene.scored.logprobs, scene.scored.reference)
    torch.testing.assert_close(scene.shaped.rewards.sum(1), scene.scored.scores)
    assert ((scene.shaped.rewards != 0).sum(1) == 1).all()


def test_the_value_at_the_last_token_is_the_score_of_the_episode(scene: Scene) -> None:
    actors = scene.work.actors
    batch = scene.rollout.batch(range(8), actors.codec.pad_id, CPU).tokens
    values = actors.value.values(batch)
    last = values[torch.arange(8), batch.last]
    torch.testing.assert_close(last, scene.scored.scores, atol=1e-5, rtol=0)
    assert actors.value.model.score.bias.tolist() == pytest.approx([0.3])
    assert actors.value.model.score.bias.requires_grad


def test_log_probabilities_are_the_samplers_at_its_temperature(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """Every token is recomputed from the plain model's logits divided by 0.7."""
    scene = Scene(settings(tmp_path / "run", folders, temperature=0.7))
    model = scene.work.actors.policy.model
    for row in range(8):
        ids = scene.rollout.prompts[row] + scene.rollout.answers[row]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0] / 0.7
        count = len(scene.rollout.answers[row])
        logs = torch.log_softmax(logits[-count - 1 : -1], -1)
        want = logs.gather(1, torch.tensor(scene.rollout.answers[row])[:, None])[:, 0]
        torch.testing.assert_close(scene.scored.logprobs[row, :count], want, atol=1e-5, rtol=1e-5)
    assert torch.equal(scene.scored.logprobs, scene.scored.reference)


def test_padding_holds_nothing(scene: Scene) -> None:
    padded = ~scene.rollout.mask
    for whole in (*scene.scored[:4], *scene.shaped):
        assert (whole[padded] == 0).all()


def test_scores_do_not_depend_on_the_micro_batch(tmp_path: Path, folders: dict[str, Path]) -> None:
    wide = Scene(settings(tmp_path / "a", folders))
    narrow = Scene(settings(tmp_path / "b", folders, micro_tokens=1))
    assert wide.rollout.answers == narrow.rollout.answers
    for a, b in zip(wide.scored, narrow.scored, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_at_learning_rate_zero_nothing_ever_moves(
    tmp_path: Path, folders: dict[str, Path], log_ratios: list[float]
) -> None:
    """Eight optimiser steps, cut into micro-batches other than those that were scored."""
    zero = {"learning_rate": 0.0, "value_learning_rate": 0.0, "epochs": 2, "micro_tokens": 80}
    for line in train(settings(tmp_path / "run", folders, **zero)):
        assert abs(line["kl"]) < 1e-4
        assert line["approx_kl"] < 1e-7
        assert line["clip_fraction"] == 0
    assert len(log_ratios) > 8
    assert max(log_ratios) < 1e-4
