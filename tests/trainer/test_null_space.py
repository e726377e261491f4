"""Steps orthogonal to stored gradients: hand-worked numbers, and the policy of a real PPO step."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import Scene, ppo_folders, reward_model, settings, train
from trainer import ppo, pretrain_mix
from trainer.errors import ConfigError, NumericError
from trainer.models import trainable
from trainer.null_space import NullSpace
from trainer.records import read_manifest


def two_weights() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.tensor([10.0, 20.0])), nn.Parameter(torch.tensor([[30.0]]))


def remember(space: NullSpace, weights: tuple[nn.Parameter, ...], *gradient: float) -> None:
    a, b = weights
    a.grad, b.grad = torch.tensor(gradient[:2]), torch.tensor([[gradient[2]]])
    space.remember()


# ---- hand-worked ----------------------------------------------------------------------------------


def test_a_step_loses_its_part_along_the_stored_gradient() -> None:
    """Along (3, 0, 4) / 5 the step (1, 1, 1) has 1.4: what is left is (0.16, 1, -0.12)."""
    a, b = weights = two_weights()
    space = NullSpace(weights, 1)
    remember(space, weights, 3.0, 0.0, 4.0)
    torch.testing.assert_close(space.basis, torch.tensor([[0.6, 0.0, 0.8]]))
    assert a.grad is None and b.grad is None
    with space.projecting(), torch.no_grad():
        a += 1.0
        b += 1.0
    torch.testing.assert_close(a.detach(), torch.tensor([10.16, 21.0]))
    torch.testing.assert_close(b.detach(), torch.tensor([[29.88]]))
    assert space.kept == pytest.approx(1 - 1.4**2 / 3, abs=1e-5)


def test_a_second_gradient_is_stored_as_what_is_new_in_it() -> None:
    weights = two_weights()
    space = NullSpace(weights, 2)
    remember(space, weights, 3.0, 0.0, 4.0)
    remember(space, weights, 6.0, -7.0, 8.0)
    torch.testing.assert_close(space.basis, torch.tensor([[0.6, 0.0, 0.8], [0.0, -1.0, 0.0]]))
    assert space.megabytes == 2 * 3 * 4 / 2**20


def test_a_gradient_that_depends_on_the_others_or_is_zero_adds_nothing() -> None:
    weights = two_weights()
    space = NullSpace(weights, 3)
    for gradient in ((3.0, 0.0, 4.0), (-6.0, 0.0, -8.0), (0.0, 0.0, 0.0)):
        remember(space, weights, *gradient)
    assert space.size == 1


def test_a_step_of_nothing_stays_nothing() -> None:
    weights = two_weights()
    space = NullSpace(weights, 1)
    remember(space, weights, 3.0, 0.0, 4.0)
    with space.projecting():
        pass
    assert [w.flatten().tolist() for w in weights] == [[10.0, 20.0], [30.0]]
    assert space.kept != space.kept  # NaN: there was no step


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    weights = two_weights()
    with pytest.raises(NumericError, match="gradient of the pretraining text became nan"):
        remember(NullSpace(weights, 1), weights, float("nan"), 0.0, 0.0)


# ---- a policy's step ------------------------------------------------------------------------------


class Stored:
    """A policy before its first PPO step, and pretraining gradients stored at its weights."""

    def __init__(self, out: Path, folders: dict[str, Path]) -> None:
        config = settings(
            out,
            folders,
            against_forgetting="null_space",
            null_space_gradients=3,
            null_space_sequences=2,
            weight_decay=0.01,
            max_grad_norm=0.05,
        )
        self.scene = Scene(config)
        work = self.scene.work
        self.policy, self.text = work.actors.policy, work.text
        self.weights = trainable(self.policy.model)
        self.start = {name: w.detach().clone() for name, w in self.weights.items()}
        space = pretrain_mix.null_space_of(config, work.run, work.actors, self.text)
        assert space is not None and space.size == 3
        self.space = space

    def loss(self, number: int) -> Tensor:
        """The pretraining loss whose gradient is stored as ``number``."""
        windows = self.text.take(2 * number, 2)
        return torch.stack(list(pretrain_mix.pretrain_losses(self.policy, windows, 0, 4096))).sum()

    def gradient(self, number: int) -> Tensor:
        self.loss(number).backward()
        flat = torch.cat([w.grad.reshape(-1) for w in self.weights.values()])
        self.policy.model.zero_grad()
        return flat

    def step(self, rate: float, *, project: str) -> Tensor:
        """Adam's first step at this rate, from the start; returns what it did, as one vector."""
        self.restart()
        adam = torch.optim.AdamW(self.weights.values(), lr=rate, eps=1e-5, weight_decay=0.01)
        scene = self.scene
        ppo.accumulate_gradients(
            scene.work, scene.rollout, scene.scored, scene.shaped, [0, 2, 5, 7], []
        )
        if project == "update":
            with self.space.projecting():
                adam.step()
        else:
            if project == "gradient":
                flat = torch.cat([w.grad.reshape(-1) for w in self.weights.values()])
                flat -= (self.space.basis @ flat) @ self.space.basis
                sizes = [w.numel() for w in self.weights.values()]
                for weight, part in zip(self.weights.values(), flat.split(sizes), strict=True):
                    weight.grad = part.view_as(weight)
            adam.step()
        self.policy.model.zero_grad()
        return self.moved()

    def update(self, *, project: bool) -> tuple[Tensor, ppo.Update]:
        """A rollout batch's update from the start, two steps; what it did to the policy."""
        work = self.scene.work._replace(null_space=self.space if project else None)
        self.restart()
        work.progress.after_iteration()
        update = ppo.optimise(work, self.scene.rollout, self.scene.scored, self.scene.shaped)
        return self.moved(), update

    def restart(self) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.start[name])

    def moved(self) -> Tensor:
        """How far the weights are from the start, as one vector."""
        changes = [(w.detach() - self.start[n]).reshape(-1) for n, w in self.weights.items()]
        return torch.cat(changes)


@pytest.fixture
def stored(tmp_path: Path, tiny_llama: Path) -> Stored:
    folders = write_all(tmp_path / "data")
    folders |= {"policy": tiny_llama, "reward": reward_model(tiny_llama, tmp_path / "rm")}
    return Stored(tmp_path / "run", folders)


def test_the_stored_rows_are_orthonormal_and_span_the_gradients(stored: Stored) -> None:
    basis = stored.space.basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
    for number in range(3):
        gradient = stored.gradient(number)
        outside = gradient - (basis @ gradient) @ basis
        assert float(outside.norm()) < 1e-5 * float(gradient.norm())


def cosines(stored: Stored, project: str) -> list[float]:
    """Between the step and each stored gradient."""
    gradients = [stored.gradient(number) for number in range(3)]
    return between(stored.step(1e-3, project=project), gradients)


def between(step: Tensor, gradients: list[Tensor]) -> list[float]:
    return [float(abs(step @ g) / (step.norm() * g.norm())) for g in gradients]


def test_a_projected_step_is_orthogonal_to_every_stored_gradient(stored: Stored) -> None:
    assert max(cosines(stored, "update")) < 1e-5


def test_adams_own_step_is_not_even_where_its_gradient_was_projected(stored: Stored) -> None:
    assert max(cosines(stored, "none")) > 1e-3
    assert max(cosines(stored, "gradient")) > 1e-3


def test_an_update_of_ppo_is_orthogonal_to_every_stored_gradient_and_is_not_without(
    stored: Stored,
) -> None:
    """Clipped, decayed, and with the value model's weights in the same optimiser."""
    value = trainable(stored.scene.work.actors.value.model)
    before = {name: weight.detach().clone() for name, weight in value.items()}
    gradients = [stored.gradient(number) for number in range(3)]
    moved, update = stored.update(project=True)
    assert max(between(moved, gradients)) < 1e-5
    assert float(moved.norm()) > 1e-2
    assert 0.5 < update.null_space_kept < 1
    limit = stored.scene.work.config.max_grad_norm
    assert update.gradient_norm > limit and update.value_gradient_norm > limit
    assert not any(torch.equal(weight, before[name]) for name, weight in value.items())
    moved, update = stored.update(project=False)
    assert max(between(moved, gradients)) > 1e-3


def changes(stored: Stored, project: str, rate: float) -> list[float]:
    """Of the three stored losses, by one step."""
    stored.step(0.0, project="none")
    before = [float(stored.loss(number).detach()) for number in range(3)]
    stored.step(rate, project=project)
    return [float(stored.loss(number).detach()) - old for number, old in enumerate(before)]


@pytest.mark.slow
def test_half_the_rate_halves_the_change_of_a_plain_step_and_quarters_that_of_a_projected_one(
    stored: Stored,
) -> None:
    """Losses of about 6 in fp32: a change under 5e-5 is too near their rounding to be compared."""
    for project, factor, least in (("none", 2, 3), ("update", 4, 2)):
        whole, half = changes(stored, project, 1e-3), changes(stored, project, 5e-4)
        seen = [a / b for a, b in zip(whole, half, strict=True) if abs(a) > 5e-5]
        assert len(seen) >= least
        assert seen == [pytest.approx(factor, rel=0.15)] * len(seen)


# ---- whole runs -----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, tiny_gpt2: Path) -> dict[str, Path]:
    return ppo_folders(tmp_path, tiny_gpt2)


@pytest.mark.slow
def test_a_run_says_what_the_null_space_left_of_its_steps(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    changes = {"null_space_gradients": 4, "null_space_sequences": 2, "freeze_layers": 1}
    config = settings(tmp_path / "run", folders, against_forgetting="null_space", **changes)
    lines = train(config)
    for line in lines:
        assert 0.5 < line["null_space_kept"] < 1
        assert line["pretrain_loss"] > 0
    manifest = read_manifest(tmp_path / "run")
    assert manifest.parents[-1].role == "pretrain_text"
    weights = trainable(Scene(config).work.actors.policy.model).values()
    size = 4 * sum(w.numel() for w in weights) * 4 / 2**20
    assert (
        "Steps of the policy were projected onto the null space of 4 independent pretraining"
        f" gradients ({size:.1f} MB)." in manifest.notes
    )


@pytest.mark.slow
def test_the_null_space_forgets_less_than_plain_ppo(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """By the loss over the stored text, after two rollout batches."""
    found = {}
    for way in ("null_space", "none"):
        changes = {"null_space_gradients": 6, "ema_decay": 0.0}
        config = settings(tmp_path / way, folders, against_forgetting=way, **changes)
        train(config)
        after = Scene(
            settings(
                tmp_path / f"{way} after",
                folders | {"policy": tmp_path / way / "model"},
                against_forgetting="null_space",
            )
        ).work
        windows = after.text.take(0, 48)
        shares = pretrain_mix.pretrain_losses(after.actors.policy, windows, 0, 4096)
        found[way] = sum(float(share.detach()) for share in shares)
    start = Scene(settings(tmp_path / "start", folders)).work
    shares = pretrain_mix.pretrain_losses(start.actors.policy, start.text.take(0, 48), 0, 4096)
    before = sum(float(share.detach()) for share in shares)
    assert abs(found["null_space"] - before) < abs(found["none"] - before)


@pytest.mark.slow
def test_without_protection_the_weights_are_those_of_plain_ppo_to_the_bit(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    weights = []
    for name, changes in (("a", {"ptx_coef": 0.0}), ("b", {"against_forgetting": "none"})):
        train(settings(tmp_path / name, folders, **changes))
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
        assert "pretrain_text" not in [p.role for p in read_manifest(tmp_path / name).parents]
    assert weights[0] == weights[1]


def test_the_null_space_needs_text(tmp_path: Path, folders: dict[str, Path]) -> None:
    config = dataclasses.replace(
        settings(tmp_path / "run", folders, against_forgetting="null_space"), pretrain_text=None
    )
    with pytest.raises(ConfigError, match=r'"null_space" but there is no pretrain_text: name'):
        train(config)
