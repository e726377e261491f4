"""Schedules, the optimiser and checkpoints."""

import ctypes
import errno
import os
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import torch
from torch import nn

from trainer.config import SFTConfig
from trainer.errors import DiskFull, IntegrityError, NumericError
from trainer.records import Parent
from trainer.runtime import Checkpoints, Optimiser, check_finite, cosine, memory_apart, warm_up
from trainer.stage_io import Interrupted

PARENTS = [Parent("policy", "base", "0" * 64)]


def test_the_cosine_ends_at_a_tenth_without_warm_up() -> None:
    assert cosine(0, 11, 0.1) == 1.0
    assert cosine(5, 11, 0.1) == pytest.approx(0.55)
    assert cosine(10, 11, 0.1) == pytest.approx(0.1)
    assert cosine(0, 1, 0.1) == 1.0


def test_the_warm_up_rises_from_a_tenth_over_ten_iterations() -> None:
    assert warm_up(0, 10) == pytest.approx(0.1)
    assert warm_up(5, 10) == pytest.approx(0.55)
    assert warm_up(10, 10) == warm_up(99, 10) == warm_up(0, 0) == 1.0


def test_each_group_has_its_own_rate_and_its_own_clipping() -> None:
    one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    config = SFTConfig(out="", adam_beta1=0.0, adam_beta2=0.0, adam_eps=1.0, max_grad_norm=1.0)
    optimiser = Optimiser([([one], 0.1), ([two], 0.2)], config)
    one.grad, two.grad = torch.tensor([4.0]), torch.tensor([0.5])
    assert optimiser.step(0.5) == [4.0, 0.5]
    # Adam without memory moves by rate * g / (|g| + eps); the first g is clipped to 1
    assert float(one.detach()) == pytest.approx(-0.05 * 1 / 2, rel=1e-3)
    assert float(two.detach()) == pytest.approx(-0.1 * 0.5 / 1.5, rel=1e-3)
    assert one.grad is None


def test_two_steps_have_the_hand_worked_moments_and_decay() -> None:
    """g = 1, then 3: m = 0.1, 0.39; v = 0.05, 0.4975; each over 1 - beta^n. 5 % of the weight decays."""
    weight = nn.Parameter(torch.tensor([2.0]))
    config = SFTConfig(out="", adam_eps=1e-8, weight_decay=0.5, max_grad_norm=0.0)
    optimiser = Optimiser([([weight], 0.1)], config)
    assert (config.adam_beta1, config.adam_beta2) == (0.9, 0.95)
    want = 2.0
    for gradient, ratio in ((1.0, 1.0), (3.0, (0.39 / 0.19) / (0.4975 / 0.0975) ** 0.5)):
        weight.grad = torch.tensor([gradient])
        optimiser.step(1.0)
        want = want * 0.95 - 0.1 * ratio
        assert float(weight.detach()) == pytest.approx(want, rel=1e-5)


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimiser = Optimiser([([weight], 0.1)], SFTConfig(out=""))
    weight.grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(NumericError, match="gradient became nan"):
        optimiser.step(1.0)
    assert weight.tolist() == [1.0, 1.0]
    with pytest.raises(NumericError, match="loss became inf"):
        check_finite(float("inf"), "loss")


def test_a_step_that_is_interrupted_leaves_neither_gradient_nor_noise() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimiser = Optimiser([([weight], 0.1)], SFTConfig(out=""))
    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)

    def half_a_step() -> None:
        with optimiser.all_or_nothing():
            (weight * torch.rand(2)).sum().backward()  # type: ignore[no-untyped-call]
            raise Interrupted

    with pytest.raises(Interrupted):
        half_a_step()
    assert weight.grad is None
    assert torch.equal(torch.rand(2), drawn)


def test_a_checkpoint_brings_back_tensors_numbers_and_the_random_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, SFTConfig(out=""), PARENTS)
    torch.manual_seed(3)
    checkpoints.save(1, {"weights": {"a": torch.ones(2)}, "step": 1, "best_loss": float("inf")})
    drawn = torch.rand(2)
    state = checkpoints.load()
    assert state is not None
    assert state["weights"]["a"].tolist() == [1.0, 1.0]
    assert (state["step"], state["best_loss"]) == (1, float("inf"))
    assert torch.equal(torch.rand(2), drawn)


def test_only_the_newest_checkpoints_are_kept_and_parts_are_cleared(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, SFTConfig(out="", keep_checkpoints=2), PARENTS)
    assert checkpoints.load() is None
    for step in (1, 2, 10):
        checkpoints.save(step, {"step": step})
    (tmp_path / "checkpoints" / ".00000011.pt.99.part").write_bytes(b"torn")
    checkpoints.save(12, {"step": 12})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000010.pt", "00000012.pt"]
    state = checkpoints.load()
    assert state is not None
    assert state["step"] == 12


def test_a_checkpoint_of_other_settings_or_parents_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, SFTConfig(out=""), PARENTS).save(1, {})
    assert Checkpoints(tmp_path, SFTConfig(out="elsewhere", threads=3), PARENTS).load() == {}
    for other in (
        Checkpoints(tmp_path, SFTConfig(out="", seed=1), PARENTS),
        Checkpoints(tmp_path, SFTConfig(out=""), [Parent("policy", "base", "1" * 64)]),
    ):
        with pytest.raises(IntegrityError, match="other settings or parents"):
            other.load()


def test_a_torn_checkpoint_gets_a_sentence(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, SFTConfig(out=""), PARENTS)
    checkpoints.save(1, {"weights": torch.ones(1000)})
    path = tmp_path / "checkpoints" / "00000001.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(IntegrityError, match="cannot be read"):
        checkpoints.load()


def test_a_checkpoint_larger_than_the_free_disk_is_not_begun(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, SFTConfig(out=""), PARENTS)
    huge = torch.empty(1).expand(2**45)  # says it needs 128 TB, holds 4 bytes
    with pytest.raises(DiskFull, match="A checkpoint needs"):
        checkpoints.save(1, {"weights": huge})
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_checkpoint_that_could_not_be_written_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, SFTConfig(out=""), PARENTS)
    checkpoints.save(1, {"step": 1})

    def full(state: dict[str, Any], out: IO[bytes]) -> None:
        out.write(b"the first part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, {"step": 2})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001.pt"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_is_free_between_what_is_held_goes_back_to_the_system() -> None:
    process = psutil.Process()
    pieces = [bytes(16_000) for _ in range(6_000)]  # 96 MB, each too small for a mapping of its own
    held = pieces[::50]
    with_all = process.memory_info().rss
    del pieces
    with memory_apart():
        inside = process.memory_info().rss
    assert len(held) == 120
    assert with_all - inside > 60e6
