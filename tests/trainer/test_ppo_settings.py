"""PPO's settings beside the paper's defaults: each by hand-worked numbers or an equivalence."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.trainer.snapshots import prompt_row, write_snapshot
from tests.trainer.test_ppo import Scene, ppo_folders, settings, train
from trainer import losses, ppo
from trainer.config import PPOConfig, config_from_plain
from trainer.errors import ConfigError, DataError, NumericError
from trainer.models import trainable
from trainer.records import read_manifest
from trainer.rollout import Rollout


@pytest.fixture
def folders(tmp_path: Path, tiny_gpt2: Path) -> dict[str, Path]:
    return ppo_folders(tmp_path, tiny_gpt2)


def shaped(
    scores: list[float], logprobs: Tensor, *, kl_coef: float = 0.1, **changes: Any
) -> ppo.Shaped:
    """Of answers of 3 tokens and of 1, all values 0, the reference at log-probability -2."""
    rollout = Rollout([[1], [1]], [[3, 4, 5], [6]], [True, False])
    nothing = torch.zeros(2, 3)
    scored = ppo.Scored(logprobs, nothing, torch.full((2, 3), -2.0), nothing, torch.tensor(scores))
    config = PPOConfig(out="o", whiten_advantages=False, lam=1.0, **changes)
    return ppo.shape_rewards(config, rollout, scored, kl_coef)


def close(got: Tensor, want: Any) -> None:
    torch.testing.assert_close(got, torch.tensor(want), atol=1e-6, rtol=1e-5)


# ---- rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "up", "down"),
    [("k1", 1.0, -1.0), ("k2", 0.5, 0.5), ("k3", math.exp(-1), math.exp(1) - 2)],
)
def test_every_token_pays_its_kl_by_the_chosen_estimator(
    estimator: str, up: float, down: float
) -> None:
    """One nat above the reference, or below it."""
    logprobs = torch.tensor([[-1.0, -3.0, -2.0], [-1.0, 9.0, 9.0]])
    got = shaped([5.0, 7.0], logprobs, kl_estimator=estimator)
    close(got.rewards, [[-0.1 * up, -0.1 * down, 5.0], [7.0 - 0.1 * up, 0.0, 0.0]])


def test_the_coefficient_of_now_is_what_is_paid() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -2.0], [-1.0, 9.0, 9.0]])
    got = shaped([5.0, 7.0], logprobs, kl_coef=0.4)
    close(got.rewards, [[-0.4, 0.4, 5.0], [6.6, 0.0, 0.0]])


def test_whitened_rewards_keep_their_mean() -> None:
    """0, 0, 1 and 3 have mean 1 and variance 1.5; what is to come adds up from the right."""
    logprobs = torch.full((2, 3), -2.0)
    close(shaped([1.0, 3.0], logprobs).rewards, [[0.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    got = shaped([1.0, 3.0], logprobs, whiten_rewards=True)
    low, high = 1 - 1 / math.sqrt(1.5), 1 + 2 / math.sqrt(1.5)
    close(got.rewards, [[low, low, 1.0], [high, 0.0, 0.0]])
    close(got.returns, [[2 * low + 1, low + 1, 1.0], [high, 0.0, 0.0]])


def test_a_cut_answer_has_its_score_lowered_or_replaced() -> None:
    scores, finished = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    assert losses.end_scores(scores, finished, None, 0.0).tolist() == [1.0, 2.0]
    assert losses.end_scores(scores, finished, None, 1.5).tolist() == [1.0, 0.5]
    assert losses.end_scores(scores, finished, -4.0, 0.0).tolist() == [1.0, -4.0]


@pytest.mark.slow
def test_the_penalty_is_taken_from_the_reward_models_score(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    plain = Scene(settings(tmp_path / "a", folders, max_new_tokens=60))
    lowered = Scene(settings(tmp_path / "b", folders, max_new_tokens=60, missing_end_penalty=2.5))
    assert len(set(plain.rollout.finished)) == 2
    cut = [0.0 if finished else 2.5 for finished in plain.rollout.finished]
    close(plain.scored.scores - lowered.scored.scores, cut)


# ---- the adaptive coefficient ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_coefficient_follows_its_target_from_one_rollout_batch_to_the_next(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """No KL at first: 0.1 (1 - 0.2 x 8 / 100) = 0.0984. Then by the formula, from the logged KL."""
    adaptive = {"kl_control": "adaptive", "kl_target": 0.05, "kl_horizon": 100, "episodes": 32}
    lines = train(settings(tmp_path / "run", folders, ptx_coef=0.0, **adaptive))
    assert [line["kl_coef"] for line in lines[:2]] == [0.1, pytest.approx(0.0984)]
    for line, following in zip(lines[1:], lines[2:], strict=False):
        error = min(max(line["kl"] / 0.05 - 1, -0.2), 0.2)
        assert following["kl_coef"] == pytest.approx(line["kl_coef"] * (1 + error * 8 / 100))
    assert lines[-1]["kl_coef"] > lines[1]["kl_coef"]


@pytest.mark.slow
def test_a_fixed_coefficient_stays(tmp_path: Path, folders: dict[str, Path]) -> None:
    lines = train(settings(tmp_path / "run", folders))
    assert [line["kl_coef"] for line in lines] == [0.1, 0.1]


# ---- the early stop -------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_update_stops_before_the_step_that_finds_the_policy_too_far_away(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """The first step of a rollout batch is never too far; here every second one is."""
    shared = {"minibatch": 8, "ptx_coef": 0.0, "ema_decay": 0.0}
    train(settings(tmp_path / "one", folders, epochs=1, **shared))
    lines = train(settings(tmp_path / "stop", folders, epochs=3, target_kl_stop=1e-6, **shared))
    assert [line["update_steps"] for line in lines] == [1, 1]
    assert read_manifest(tmp_path / "stop").metrics["steps"] == 2
    assert saved(tmp_path / "one") == saved(tmp_path / "stop")


@pytest.mark.slow
def test_a_stop_that_is_never_reached_changes_nothing(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    train(settings(tmp_path / "never", folders, epochs=2))
    lines = train(settings(tmp_path / "far", folders, epochs=2, target_kl_stop=1e9))
    assert [line["update_steps"] for line in lines] == [4, 4]
    assert saved(tmp_path / "never") == saved(tmp_path / "far")


def saved(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def test_a_stop_before_the_first_step_changes_nothing_and_has_no_figures(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """Answers said to come from a policy one nat a token away: k3 is e^1 - 2 = 0.718."""
    scene = Scene(settings(tmp_path / "run", folders, target_kl_stop=0.7, kl_coef=0.0))
    weights = trainable(scene.work.actors.policy.model)
    before = {name: w.detach().clone() for name, w in weights.items()}
    far = scene.scored._replace(logprobs=scene.scored.logprobs - 1)
    update = ppo.optimise(scene.work, scene.rollout, far, scene.shaped)
    assert scene.work.progress.step == 0
    assert all(math.isnan(figure) for figure in update)
    assert all(torch.equal(w, before[name]) and w.grad is None for name, w in weights.items())
    nearer = scene.scored._replace(logprobs=scene.scored.logprobs - 0.9)  # e^0.9 - 1.9 = 0.560
    ppo.optimise(scene.work, scene.rollout, nearer, scene.shaped)
    assert scene.work.progress.step > 0


# ---- the value model alone --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_value_model_learns_alone_in_the_first_rollout_batches(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """Its gradients are those that it has beside the policy's; then both learn as ever."""
    found = []
    for warmup in (0, 1):
        scene = Scene(settings(tmp_path / str(warmup), folders, value_warmup=warmup))
        windows = ppo._windows(scene.work, 3)
        assert bool(windows) is (warmup == 0)
        found.append(scene.gradients([5, 0, 3], windows))
    both, alone = found
    assert {name for name in both if name.startswith("value.")} == set(alone)
    assert all(torch.equal(gradient, both[name]) for name, gradient in alone.items())

    lines = train(settings(tmp_path / "run", folders, value_warmup=1, warmup=2))
    assert [line["learning_rate"] for line in lines] == [0.0, pytest.approx(1e-4)]
    assert ["pretrain_loss" in line for line in lines] == [False, True]


@pytest.mark.slow
def test_until_then_the_policy_stays_where_it_was(tmp_path: Path, folders: dict[str, Path]) -> None:
    train(settings(tmp_path / "run", folders, value_warmup=2))
    start = load_file(folders["policy"] / "model.safetensors")
    end = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(end[name], tensor) for name, tensor in start.items())


# ---- the best weights -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_weights_of_the_best_look_are_saved(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Four rollout batches; at so high a price of KL the last look is not the best."""
    shared = {"ptx_coef": 0.0, "ema_decay": 0.0, "learning_rate": 3e-3, "kl_coef": 50.0}
    out = tmp_path / "best"
    lines = train(settings(out, folders, episodes=32, keep_best=True, **shared))
    for line in lines:
        want = line["valid_reward"] - 50 * line["valid_kl"]
        assert line["valid_objective"] == pytest.approx(want, rel=1e-5)
    objectives = [line["valid_objective"] for line in lines]
    best = objectives.index(max(objectives)) + 1
    assert best < 4
    assert [line["best_iteration"] for line in lines[best - 1 :]] == [best] * (5 - best)
    train(settings(tmp_path / "shorter", folders, episodes=8 * best, **shared))
    assert saved(out) == saved(tmp_path / "shorter")
    manifest = read_manifest(out)
    figures = {k: v for k, v in manifest.metrics.items() if k.startswith("best_")}
    objective = objectives[best - 1]
    assert figures == {
        "best_iteration": best, "best_step": 2 * best, "best_objective": objective,
    }  # fmt: skip
    assert (
        f"The weights are those after rollout batch {best} of 4 (optimiser step {2 * best}), where"
        f" the held-out reward - 50.0 KL was best: {objective:.4f}." in manifest.notes
    )


@pytest.mark.slow
def test_looking_at_the_average_leaves_the_training_as_it_was(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """An average that hardly moves: a look at it finds no KL; the policy goes on all the same."""
    shared = {"ema_decay": 0.9999999, "episodes": 24, "learning_rate": 3e-3}
    plain = train(settings(tmp_path / "plain", folders, **shared))
    kept = train(settings(tmp_path / "kept", folders, keep_best=True, **shared))
    assert [line["reward"] for line in kept] == [line["reward"] for line in plain]
    assert [line["kl"] for line in kept] == [line["kl"] for line in plain]
    assert max(abs(line["valid_kl"]) for line in kept) < 1e-3 < plain[-1]["valid_kl"]
    start = load_file(folders["policy"] / "model.safetensors")
    for name, tensor in load_file(tmp_path / "kept" / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, start[name], atol=1e-5, rtol=0)


def test_the_best_weights_need_held_out_prompts(tmp_path: Path, folders: dict[str, Path]) -> None:
    rows = [prompt_row(i, split="train") for i in range(8)]
    alone = folders | {"prompts": write_snapshot(tmp_path / "alone", "prompts", rows)}
    with pytest.raises(DataError, match=r"keep_best chooses by held-out prompts, and .* has none"):
        train(settings(tmp_path / "run", alone, keep_best=True))


def test_a_look_that_is_no_number_ends_the_run(tmp_path: Path, folders: dict[str, Path]) -> None:
    scene = Scene(settings(tmp_path / "run", folders, keep_best=True))
    scene.work.actors.reward.model.score.bias.data.fill_(math.nan)
    with pytest.raises(NumericError, match="held-out reward became nan"):
        ppo.evaluate(scene.work)


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"missing_end_score": -1.0, "missing_end_penalty": 2.0},
            r"missing_end_score \(-1.0\) replaces .* missing_end_penalty \(2.0\) lowers it: set one",
        ),
        ({"missing_end_penalty": -2.0}, "missing_end_penalty is -2.0; it must be 0 or more"),
        ({"target_kl_stop": 0}, "target_kl_stop is 0.0; it must be above 0, or null."),
        ({"kl_control": "adaptive", "kl_horizon": 9}, "kl_horizon is 9; it must be at least"),
        ({"kl_target": 0}, "kl_target is 0.0; it must be above 0"),
        ({"kl_estimator": "k4"}, "kl_estimator is 'k4'; it must be one of 'k1', 'k2', 'k3'"),
        ({"keep_best": True, "eval_prompts": 0}, "keep_best chooses by held-out prompts: set"),
        ({"against_forgetting": "ewc"}, "must be one of 'mix', 'null_space', 'none'"),
        ({"null_space_gradients": 0}, "null_space_gradients is 0; it must be above 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_plain("ppo", {"out": "o"} | change)
