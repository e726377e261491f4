"""PPO: the three gradients, rewards, and learning."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.snapshots import write_all
from tests.trainer.tiny import build_tiny
from trainer import losses, ppo, pretrain_mix
from trainer.actors import OTHER_TOKENIZER, Actors, Progress
from trainer.config import PPOConfig
from trainer.data import Prompt, load_prompts
from trainer.errors import ConfigError
from trainer.models import ScalarModel, save_reward_model, trainable
from trainer.padded import Padded, pad
from trainer.ppo_run import pretraining_text, run_manifest, run_parents
from trainer.pretrain_text import PretrainText
from trainer.records import read_manifest
from trainer.rollout import Rollout, align
from trainer.runtime import Checkpoints
from trainer.stack import Stack
from trainer.stage_io import Run, open_run

CPU = torch.device("cpu")


def reward_model(parent: Path, dest: Path, seed: int = 5) -> Path:
    """A reward model with a random head three times as wide as usual, and a bias."""
    model = ScalarModel.fresh(parent, 0, "fp32", CPU, pad_id=2, seed=seed)
    weights = {"score.weight": model.model.score.weight.detach() * 3}
    save_reward_model(parent, weights, dest, bias=0.3, pad_id=2)
    return dest


def ppo_folders(root: Path, model: Path) -> dict[str, Path]:
    """Snapshots and text, a policy, and a reward model made of the same weights."""
    return write_all(root / "data") | {"policy": model, "reward": reward_model(model, root / "rm")}


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    return ppo_folders(tmp_path, tiny_model)


def settings(out: Path, folders: dict[str, Path], **changes: Any) -> PPOConfig:
    plain: dict[str, Any] = {
        "learning_rate": 1e-3,
        "value_learning_rate": 1e-3,
        "precision": "fp32",
        "episodes": 16,
        "batch": 8,
        "minibatch": 4,
        "max_new_tokens": 10,
        "max_prompt_tokens": 150,
        "ptx_per_episode": 1.0,
        "ptx_tokens": 12,
        "kl_coef": 0.1,
        "warmup": 0,
    }
    named: dict[str, Any] = {
        name: str(folders[name]) for name in ("policy", "reward", "prompts", "pretrain_text")
    }
    return PPOConfig(out=str(out), **named, **plain | changes)


class Scene:
    """One rollout batch, scored and shaped, before any update."""

    def __init__(self, config: PPOConfig) -> None:
        run, actors = Run(Path(config.out)), Actors(config)
        prompts = load_prompts(config.prompts, actors.codec, config.max_prompt_tokens)
        progress = Progress(config, actors, Checkpoints(run.out, config, []))
        text = PretrainText(str(config.pretrain_text), actors.codec, config.ptx_tokens, 99, 0)
        self.work = ppo.Work(config, run, actors, progress, prompts, text)
        self.prompts: list[Prompt] = ppo._prompts(self.work)
        self.rollout = ppo.collect_rollouts(self.work, self.prompts)
        self.scored = ppo.score(self.work, self.prompts, self.rollout)
        self.shaped = ppo.shape_rewards(config, self.rollout, self.scored, progress.kl_coef)

    def gradients(self, rows: list[int], windows: list[list[int]]) -> dict[str, Tensor]:
        actors = self.work.actors
        self.figures = ppo.accumulate_gradients(
            self.work, self.rollout, self.scored, self.shaped, rows, windows
        )
        found = {}
        for kind, model in (("policy", actors.policy.model), ("value", actors.value.model)):
            for name, parameter in trainable(model).items():
                if parameter.grad is not None:
                    found[f"{kind}.{name}"] = parameter.grad.clone()
            model.zero_grad()
        return found


@pytest.fixture
def scene(tmp_path: Path, folders: dict[str, Path]) -> Scene:
    return Scene(settings(tmp_path / "run", folders))


@pytest.mark.slow
@pytest.mark.parametrize("reward_frozen_apart", [False, True], ids=["shared", "apart"])
def test_the_frozen_part_is_run_once_a_rollout_batch_and_changes_no_gradient(
    tmp_path: Path, folders: dict[str, Path], reward_frozen_apart: bool
) -> None:
    if reward_frozen_apart:
        other = build_tiny(tmp_path / "other", folders["policy"].name, seed=9)
        folders = folders | {"reward": reward_model(other, tmp_path / "rm other")}
    found = []
    for keeps in (True, False):
        config = settings(tmp_path / str(keeps), folders, freeze_layers=1, keep_frozen_states=keeps)
        scene = Scene(config)
        actors = scene.work.actors
        assert actors.shares is not reward_frozen_apart
        runs: list[int] = []
        for stack in (actors.policy.stack, actors.value.stack):
            counted(stack, runs)
        found.append((scene.gradients([5, 0, 3], []), len(runs)))
    (gradients, runs_kept), (plain, runs_plain) = found
    assert runs_kept == 0 < runs_plain
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4)


def counted(stack: Stack, runs: list[int]) -> None:
    """Count the runs through a stack's frozen part."""
    real = stack.lower

    def lower(batch: Padded) -> Tensor | None:
        runs.append(len(batch.ids))
        return real(batch)

    stack.lower = lower  # type: ignore[method-assign]


# ---- the three gradients (equation 2) ---------------------------------------------------------


def test_the_gradient_is_that_of_ppo_plus_gamma_times_that_of_the_text(scene: Scene) -> None:
    """To a millionth of the gradient's length; log-probabilities are in fp32 whatever the weights."""
    rows, windows = [0, 2, 5, 7], scene.work.text.take(0, 4)  # type: ignore[union-attr]
    both, alone = scene.gradients(rows, windows), scene.gradients(rows, [])
    for share in pretrain_mix.pretrain_losses(scene.work.actors.policy, windows, 0, 4096):
        share.backward()  # type: ignore[no-untyped-call]
    gamma = scene.work.config.ptx_coef
    assert gamma == 27.8
    got, want = [], []
    for name, parameter in trainable(scene.work.actors.policy.model).items():
        assert parameter.grad is not None
        got.append(both[f"policy.{name}"].reshape(-1))
        want.append((alone[f"policy.{name}"] + gamma * parameter.grad).reshape(-1))
    off = torch.cat(got) - torch.cat(want)
    assert float(off.norm()) < 1e-6 * float(torch.cat(want).norm())


def test_the_text_loss_is_the_mean_over_predicted_tokens(scene: Scene) -> None:
    policy, windows = scene.work.actors.policy, [[5, 9, 7, 3], [8, 1]]
    got = sum(float(s.detach()) for s in pretrain_mix.pretrain_losses(policy, windows, 0, 1))
    total = 0.0
    for window in windows:
        ids = torch.tensor([window])
        total += float(policy.model(ids, labels=ids).loss.detach()) * (len(window) - 1)
    assert got == pytest.approx(total / 4, abs=1e-5)


@pytest.mark.slow
def test_without_text_the_weights_are_those_of_plain_ppo_to_the_bit(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    weights = []
    for name, changes in (("a", {"ptx_coef": 0.0}), ("b", {"ptx_coef": 0.0, "ptx_tokens": 30})):
        config = settings(tmp_path / name, folders, **changes)
        train(dataclasses.replace(config, pretrain_text=None))
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_micro_batches_of_one_episode_give_the_gradient_of_the_minibatch(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    wide, narrow = (
        Scene(settings(tmp_path / str(micro), folders, micro_tokens=micro)) for micro in (4096, 1)
    )
    rows, windows = [0, 2, 5, 7], wide.work.text.take(0, 4)  # type: ignore[union-attr]
    one, other = wide.gradients(rows, windows), narrow.gradients(rows, windows)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-5, rtol=1e-3)


def test_frozen_layers_change_no_gradient_of_the_others(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    whole = Scene(settings(tmp_path / "a", folders))
    frozen = Scene(settings(tmp_path / "b", folders, freeze_layers=1))
    assert frozen.work.actors.shares  # one pass through the frozen part serves all four models
    assert whole.rollout.answers == frozen.rollout.answers
    rows, windows = [0, 2, 5, 7], whole.work.text.take(0, 4)  # type: ignore[union-attr]
    plain, cut = whole.gradients(rows, windows), frozen.gradients(rows, windows)
    assert 0 < len(cut) < len(plain)
    for name, gradient in cut.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-3)


# ---- rewards ------------------------------------------------------------------------------------


def test_an_answer_that_was_cut_has_its_score_replaced(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    scene = Scene(settings(tmp_path / "run", folders, missing_end_score=-7.5))
    assert not all(scene.rollout.finished)
    for finished, score in zip(scene.rollout.finished, scene.scored.scores, strict=True):
        assert (float(score) == -7.5) is not finished


def test_whitening_is_over_the_whole_rollout_batch(scene: Scene) -> None:
    mask = scene.rollout.mask
    advantages = scene.shaped.advantages[mask]
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantages.var(unbiased=False)) == pytest.approx(1, abs=1e-4)
    raw = losses.gae(scene.shaped.rewards, scene.scored.values, mask, 1.0, 0.95)
    torch.testing.assert_close(scene.shaped.returns, raw.returns)


def test_answers_align_at_column_zero() -> None:
    rollout = Rollout([[1], [1, 2]], [[3, 4, 5], [6]], [True, True])
    assert rollout.mask.tolist() == [[True, True, True], [True, False, False]]
    aligned = align(torch.tensor([1.0, 2.0, 3.0, 4.0]), rollout.mask)
    assert aligned.tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]
    batch = rollout.batch([1, 0], 0, CPU)
    assert batch.tokens.ids.tolist() == [[1, 2, 6, 0], [1, 3, 4, 5]]
    assert batch.completion.tolist() == [[False, False, True, False], [False, True, True, True]]


def test_a_reward_model_of_another_tokenizer_reads_the_text_again(
    tmp_path: Path, tiny_llama: Path, tiny_gpt2: Path
) -> None:
    folders = write_all(tmp_path / "data")
    folders |= {"policy": tiny_llama, "reward": reward_model(tiny_gpt2, tmp_path / "rm")}
    scene = Scene(settings(tmp_path / "run", folders))
    actors = scene.work.actors
    assert actors.notes == (OTHER_TOKENIZER,)
    codec = actors.reward_codec
    for row in range(8):
        text = actors.codec.decode(scene.rollout.answers[row])
        ids = codec.encode_prompt(scene.prompts[row].row.prompt) + codec.encode_completion(
            text, ended=scene.rollout.finished[row]
        )
        want = actors.reward.scores(pad([ids], codec.pad_id, CPU))
        torch.testing.assert_close(scene.scored.scores[row : row + 1], want, atol=1e-5, rtol=1e-5)


# ---- whole runs -----------------------------------------------------------------------------------


def train(config: PPOConfig) -> list[dict[str, float]]:
    with open_run(config.out) as run:
        ppo.run(config, run)
        return [line["values"] for line in run.lines()]


def test_the_reward_that_is_logged_is_the_score_without_the_price_of_the_kl(
    tmp_path: Path, tiny_gpt2: Path
) -> None:
    """One nat a token above the reference: the KL of an answer is its length."""
    folders = write_all(tmp_path / "data")
    folders |= {"policy": tiny_gpt2, "reward": reward_model(tiny_gpt2, tmp_path / "rm")}
    scene = Scene(settings(tmp_path / "run", folders, eval_prompts=0, kl_coef=0.5))
    mask = scene.rollout.mask
    scored = scene.scored._replace(
        scores=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]),
        reference=scene.scored.logprobs - mask.float(),
    )
    shaped = ppo.shape_rewards(scene.work.config, scene.rollout, scored, 0.5)
    (tmp_path / "run").mkdir()
    nothing = ppo.Update(*[math.nan] * len(ppo.Update._fields))
    ppo.report(scene.work, scene.rollout, scored, shaped, nothing)
    (line,) = scene.work.run.lines()
    length = sum(map(len, scene.rollout.answers)) / 8
    assert line["values"]["reward"] == pytest.approx(4.625)
    assert line["values"]["kl"] == pytest.approx(length, abs=1e-5)
    assert float(shaped.rewards.sum(1).mean()) == pytest.approx(4.625 - 0.5 * length, abs=1e-5)


@pytest.mark.slow
def test_a_run_logs_what_tells_a_healthy_one(tmp_path: Path, folders: dict[str, Path]) -> None:
    lines = train(settings(tmp_path / "run", folders))
    assert len(lines) == 2
    for name in (
        "reward", "valid_reward", "kl", "entropy", "clip_fraction", "approx_kl",
        "explained_variance", "end_rate", "response_length", "pretrain_loss",
        "episodes_per_second", "tokens_per_second",
    ):  # fmt: skip
        assert name in lines[-1]
    manifest = read_manifest(tmp_path / "run", verify=True)
    assert [parent.role for parent in manifest.parents] == [
        "policy", "reward", "prompts", "pretrain_text",
    ]  # fmt: skip
    assert manifest.metrics["episodes"] == 16
    assert manifest.metrics["tokens"] > 0


@pytest.mark.slow
def test_the_average_is_what_is_saved(tmp_path: Path, folders: dict[str, Path]) -> None:
    """With a decay of almost one the average stays at the start."""
    train(settings(tmp_path / "ema", folders, ema_decay=0.9999999))
    train(settings(tmp_path / "last", folders, ema_decay=0.0))
    start = trainable(Actors(settings(tmp_path, folders)).policy.model)
    for name, far in (("ema", False), ("last", True)):
        saved = Actors(
            settings(tmp_path, folders | {"policy": tmp_path / name / "model"})
        ).policy.model
        moved = max(float((p - start[n]).detach().abs().max()) for n, p in trainable(saved).items())
        assert (moved > 1e-4) is far


def test_files_of_the_text_folder_that_are_not_read_stand_in_the_manifest(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    text = tmp_path / "library"
    text.mkdir()
    shutil.copy(folders["pretrain_text"], text / "a.txt")
    (text / "b.html").write_text("<p>The boats came in.</p>")
    config = settings(tmp_path / "run", folders | {"pretrain_text": text})
    work = Scene(config).work._replace(text=pretraining_text(config, Actors(config)))
    notes = run_manifest(work, run_parents(config), {}).notes
    assert any(note.startswith("Not read in the text folder library: b.html.") for note in notes)
    plain = work._replace(text=None)
    assert not any("Not read" in note for note in run_manifest(plain, [], {}).notes)


def test_text_is_asked_for_unless_its_weight_is_zero(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    config = dataclasses.replace(settings(tmp_path / "run", folders), pretrain_text=None)
    with pytest.raises(ConfigError, match=r"ptx_coef is 27.8 but there is no pretrain_text"):
        train(config)


@pytest.mark.slow
def test_ppo_raises_the_reward_it_is_given(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path / "tiny", "llama")
    folders = write_all(tmp_path / "data") | {"policy": tiny}
    folders["reward"] = reward_model(tiny, tmp_path / "rm")
    lines = train(
        settings(
            tmp_path / "run",
            folders,
            episodes=1600,
            batch=64,
            minibatch=32,
            epochs=2,
            learning_rate=3e-3,
            value_learning_rate=3e-3,
            kl_coef=0.01,
            ptx_coef=0.0,
            eval_every=5,
        )
    )
    first, last = lines[0]["reward"], lines[-1]["reward"]
    assert last > first + 0.5
    assert lines[-1]["kl"] > 1
