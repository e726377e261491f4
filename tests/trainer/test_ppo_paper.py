"""PPO-ptx beside the paper written out plainly: one episode at a time, whole logits, sums by hand."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.test_ppo import Scene, ppo_folders, settings, train
from tests.trainer.tiny import TEXT
from trainer import losses, ppo
from trainer.config import PPOConfig
from trainer.data import shuffled
from trainer.generate import generate
from trainer.models import LanguageModel, trainable
from trainer.runtime import Optimiser

CPU = torch.device("cpu")
T = 0.7  # temperature
LENGTHS = (10, 3, 7, 1, 10, 9, 2, 10)  # of the answers; those of 10 tokens were cut


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    return ppo_folders(tmp_path, tiny_model)


@pytest.fixture
def config(tmp_path: Path, folders: dict[str, Path]) -> PPOConfig:
    """No setting has the value of another, so that none can stand in its place."""
    return settings(
        tmp_path / "run",
        folders,
        temperature=T,
        kl_coef=0.3,
        gamma=0.97,
        lam=0.9,
        clip=0.15,
        value_clip=0.05,
        value_coef=0.4,
        ptx_coef=2.5,
        missing_end_score=-2.0,
        eval_prompts=0,
        learning_rate=1e-3,
        value_learning_rate=2e-3,
    )


class Moved(Scene):
    """A rollout batch of a policy that has left its reference, and left once more since."""

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        actors = self.work.actors
        nudge(actors.policy.model, 0.02)
        actors.forget()
        drawn = ppo.collect_rollouts(self.work, self.prompts)
        answers = [a[:n] for a, n in zip(drawn.answers, LENGTHS, strict=True)]
        self.rollout = drawn._replace(answers=answers, finished=[n < 10 for n in LENGTHS])
        self.scored = ppo.score(self.work, self.prompts, self.rollout)
        self.shaped = ppo.shape_rewards(config, self.rollout, self.scored, config.kl_coef)
        self.old_policy = copy.deepcopy(actors.policy.model)
        self.old_value = copy.deepcopy(actors.value.model)
        nudge(actors.policy.model, 0.01)
        nudge(actors.value.model, 0.02)


@torch.no_grad()
def nudge(model: Any, by: float) -> None:
    noise = torch.Generator().manual_seed(3)
    for parameter in trainable(model).values():
        parameter += by * torch.randn(parameter.shape, generator=noise)


# ---- the paper, plainly ---------------------------------------------------------------------------


def answer_logprobs(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    logits = model(torch.tensor([prompt + answer])).logits[0] / T
    logs = torch.log_softmax(logits, -1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([logs[t, token] for t, token in zip(places, answer, strict=True)])


def scalars(model: Any, ids: list[int]) -> Tensor:
    hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0]
    return (hidden @ model.score.weight.T + model.score.bias)[:, 0]


def answer_values(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """V of the state before each token of the answer."""
    return scalars(model, prompt + answer)[len(prompt) - 1 : -1]


def advantages_of(rewards: Tensor, values: Tensor, config: PPOConfig) -> Tensor:
    count = len(rewards)
    following = torch.cat([values[1:], torch.zeros(1)])
    delta = rewards + config.gamma * following - values
    decay = config.gamma * config.lam
    return torch.stack(
        [
            torch.stack([decay ** (k - t) * delta[k] for k in range(t, count)]).sum()
            for t in range(count)
        ]
    )


class Plain:
    """What each episode learns from."""

    def __init__(self, scene: Moved, config: PPOConfig) -> None:
        actors, rollout = scene.work.actors, scene.rollout
        self.episodes = list(zip(rollout.prompts, rollout.answers, strict=True))
        self.old, self.values, self.advantages, self.returns = ([] for _ in range(4))
        for (prompt, answer), finished in zip(self.episodes, rollout.finished, strict=True):
            old = answer_logprobs(scene.old_policy, prompt, answer)
            reference = answer_logprobs(actors.reference.model, prompt, answer)
            rewards = -config.kl_coef * (old - reference)
            score = scalars(actors.reward.model, prompt + answer)[-1]  # type: ignore[union-attr]
            rewards[-1] += score if finished else config.missing_end_score
            values = answer_values(scene.old_value, prompt, answer)
            advantages = advantages_of(rewards, values, config)
            self.old.append(old)
            self.values.append(values)
            self.advantages.append(advantages)
            self.returns.append(advantages + values)
        every = torch.cat(self.advantages)
        middle, width = every.mean(), every.std(unbiased=False)
        self.advantages = [(a - middle) / width for a in self.advantages]


def objective(
    scene: Moved, plain: Plain, config: PPOConfig, rows: list[int], windows: list[list[int]]
) -> Tensor:
    """To minimise: equation 2 over some episodes and windows of text, and the value loss."""
    policy, value = scene.work.actors.policy.model, scene.work.actors.value.model
    surrogates, squares, text = [], [], []
    for row in rows:
        prompt, answer = plain.episodes[row]
        ratios = (answer_logprobs(policy, prompt, answer) - plain.old[row]).exp()
        for ratio, a in zip(ratios, plain.advantages[row], strict=True):
            within = ratio.clamp(1 - config.clip, 1 + config.clip)
            surrogates.append(torch.minimum(ratio * a, within * a))
        now, was, target = (
            answer_values(value, prompt, answer), plain.values[row], plain.returns[row]
        )  # fmt: skip
        near = was + (now - was).clamp(-config.value_clip, config.value_clip)
        squares += list(torch.maximum((now - target) ** 2, (near - target) ** 2))
    for window in windows:
        logs = torch.log_softmax(policy(torch.tensor([window])).logits[0], -1)
        text += [-logs[t, window[t + 1]] for t in range(len(window) - 1)]
    return (
        -torch.stack(surrogates).mean()
        + config.value_coef * torch.stack(squares).mean() / 2
        + config.ptx_coef * torch.stack(text).mean()
    )


def test_the_gradients_are_those_of_the_plain_objective(config: PPOConfig) -> None:
    scene = Moved(config)
    with torch.no_grad():
        plain = Plain(scene, config)
    rows, windows = [6, 1, 4], [[5, 9, 7, 3, 11], [8, 1, 2]]
    got = scene.gradients(rows, windows)
    objective(scene, plain, config, rows, windows).backward()  # type: ignore[no-untyped-call]
    assert 0 < scene.figures["clip_fraction"] < 1
    models = {"policy": scene.work.actors.policy.model, "value": scene.work.actors.value.model}
    wanted = {
        f"{kind}.{name}": parameter.grad
        for kind, model in models.items()
        for name, parameter in trainable(model).items()
        if parameter.grad is not None
    }
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_what_is_learned_from_is_that_of_the_plain_episodes(config: PPOConfig) -> None:
    scene = Moved(config)
    with torch.no_grad():
        plain = Plain(scene, config)
    mask = scene.rollout.mask
    for got, wanted in (
        (scene.scored.logprobs, plain.old),
        (scene.scored.values, plain.values),
        (scene.shaped.advantages, plain.advantages),
        (scene.shaped.returns, plain.returns),
    ):
        torch.testing.assert_close(got[mask], torch.cat(wanted), atol=1e-4, rtol=1e-4)


# ---- at one temperature on both sides -------------------------------------------------------------


def test_the_first_minibatch_has_ratio_one_at_a_temperature_too(config: PPOConfig) -> None:
    scene = Scene(config)
    scene.gradients([3, 1, 6], [])
    assert scene.figures["clip_fraction"] == 0
    assert scene.figures["approx_kl"] == pytest.approx(0, abs=1e-7)


def test_answers_are_drawn_at_that_temperature_with_the_noise_of_their_episode(
    config: PPOConfig,
) -> None:
    """The second rollout batch has other episodes than the first: other prompts, other noise."""
    scene = Scene(config)
    work, codec = scene.work, scene.work.actors.codec
    work.progress.iteration = 1
    prompts = ppo._prompts(work)
    order = [*shuffled(len(work.prompts.train), 0, 0), *shuffled(len(work.prompts.train), 0, 1)]
    assert prompts == [work.prompts.train[i] for i in order[8:16]]
    drawn = generate(
        work.actors.policy.model,
        prompts=[prompt.ids for prompt in prompts],
        keys=[f"episode/{number}" for number in range(8, 16)],
        codec_end_ids=codec.end_ids,
        pad_id=codec.pad_id,
        seed=0,
        temperature=T,
        max_new_tokens=config.max_new_tokens,
        batch=8,
        stopped=codec.stopped if codec.stop is not None else None,
    )
    rollout = ppo.collect_rollouts(work, prompts)
    assert rollout.answers == [one.token_ids for one in drawn]
    assert rollout.answers != scene.rollout.answers


# ---- one buffer, one step --------------------------------------------------------------------------


def test_both_gradients_go_into_one_step_of_the_optimiser(
    config: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps that share moments would not be equation 2. Adam's first moment after one step is
    a tenth of the sum of the gradients, clipped.
    """
    scene = Scene(config)
    plan = ppo._minibatches(config, 8, 0)
    total = scene.gradients(plan[0], ppo._windows(scene.work, 4))
    calls: list[int] = []
    real = Optimiser.step

    def step(self: Optimiser, factor: float) -> list[float]:
        norms = real(self, factor)
        calls.append(len(calls))
        if len(calls) == 1:
            for kind, model in models.items():
                grads = {n: total[f"{kind}.{n}"] for n in trainable(model)}
                norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
                clipped = min(1.0, config.max_grad_norm / norm)
                for name, parameter in trainable(model).items():
                    moment = self.adam.state[parameter]["exp_avg"]
                    torch.testing.assert_close(
                        moment, 0.1 * clipped * grads[name], atol=1e-6, rtol=1e-3
                    )
        return norms

    models = {"policy": scene.work.actors.policy.model, "value": scene.work.actors.value.model}
    monkeypatch.setattr(Optimiser, "step", step)
    ppo.optimise(scene.work, scene.rollout, scene.scored, scene.shaped)
    assert len(calls) == len(plan) == 2


@pytest.mark.parametrize("still", ["policy", "value"])
def test_policy_and_value_model_have_rates_of_their_own(
    tmp_path: Path, folders: dict[str, Path], still: str
) -> None:
    rates = {"policy": "learning_rate", "value": "value_learning_rate"}
    scene = Scene(settings(tmp_path / "run", folders, **{rates[still]: 0.0}))
    models = {"policy": scene.work.actors.policy.model, "value": scene.work.actors.value.model}
    before = {kind: copy.deepcopy(model.state_dict()) for kind, model in models.items()}
    ppo.optimise(scene.work, scene.rollout, scene.scored, scene.shaped)
    for kind, model in models.items():
        same = all(torch.equal(w, before[kind][n]) for n, w in model.state_dict().items())
        assert same is (kind == still)


# ---- the plan of an update -------------------------------------------------------------------------


def test_every_epoch_and_every_rollout_batch_has_an_order_of_its_own() -> None:
    config = PPOConfig(out="o", minibatch=4, epochs=3)
    plan = ppo._minibatches(config, 10, iteration=5)
    assert [len(rows) for rows in plan] == [4, 4, 2] * 3
    epochs = [sum(plan[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(rows) == list(range(10)) for rows in epochs)
    others = sum(ppo._minibatches(config, 10, iteration=6)[:3], [])
    assert len({tuple(rows) for rows in (*epochs, others)}) == 4


def test_each_step_mixes_in_the_next_windows_so_many_an_episode(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    scene = Scene(settings(tmp_path / "run", folders, ptx_per_episode=2.0))
    work, text = scene.work, scene.work.text
    assert text is not None
    for step in (0, 3):
        work.progress.step = step
        assert ppo._windows(work, 4) == text.take(8 * step, 8)
    assert len(ppo._windows(work, 3)) == 6, "a last minibatch that is smaller"


# ---- what is reported ------------------------------------------------------------------------------


def test_the_kl_is_a_sum_over_the_tokens_of_an_answer_and_the_entropy_a_mean_without_padding(
    config: PPOConfig,
) -> None:
    scene, out = Moved(config), Path(config.out)
    out.mkdir()
    actors = scene.work.actors
    with torch.no_grad():
        sums, entropies = [], []
        for prompt, answer in zip(scene.rollout.prompts, scene.rollout.answers, strict=True):
            old = answer_logprobs(scene.old_policy, prompt, answer)
            sums.append((old - answer_logprobs(actors.reference.model, prompt, answer)).sum())
            logits = scene.old_policy(torch.tensor([prompt + answer])).logits[0] / T
            logs = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
            entropies.append(-(logs.exp() * logs).sum(-1))
    update = ppo.Update(*(0.0 for _ in ppo.Update._fields))
    figures = ppo.report(scene.work, scene.rollout, scene.scored, scene.shaped, update)
    assert figures["kl"] == pytest.approx(float(torch.stack(sums).mean()), rel=1e-3, abs=1e-4)
    assert abs(figures["kl"]) > 1e-3
    assert figures["entropy"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-4)


@pytest.mark.slow
def test_the_rewards_are_shaped_by_the_coefficient_that_is_logged(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paid: list[float] = []
    real = losses.shape_rewards

    def shaped(*args: Any) -> Tensor:
        paid.append(args[4])
        return real(*args)

    monkeypatch.setattr(losses, "shape_rewards", shaped)
    adaptive = {"kl_control": "adaptive", "kl_target": 0.05, "kl_horizon": 50, "ptx_coef": 0.0}
    lines = train(settings(tmp_path / "run", folders, episodes=24, **adaptive))
    assert paid == [line["kl_coef"] for line in lines]
    assert len(set(paid)) == 3


@pytest.mark.slow
def test_the_average_follows_every_step(tmp_path: Path, folders: dict[str, Path]) -> None:
    """decay 1/2 after two steps: a quarter of the start, a quarter of step 1, half of step 2.

    Of a text this long a run of two steps mixes in at step 1 what a run of one does.
    """
    folders["pretrain_text"].write_text(TEXT * 20)
    weights = [trainable(LanguageModel.load(folders["policy"], 0, "fp32", CPU).model)]
    for name, episodes, decay in (("one", 8, 0.0), ("two", 16, 0.0), ("mean", 16, 0.5)):
        train(settings(tmp_path / name, folders, minibatch=8, episodes=episodes, ema_decay=decay))
        saved = LanguageModel.load(tmp_path / name / "model", 0, "fp32", CPU)
        weights.append(trainable(saved.model))
    for name, start in weights[0].items():
        one, two, mean = (some[name] for some in weights[1:])
        torch.testing.assert_close(mean, start / 4 + one / 4 + two / 2, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(mean, two, atol=1e-6, rtol=0)
