"""Gradient checkpointing and torch.compile change memory and time, not what is learned."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.trainer.sft_cast import config, train
from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import CPU, Scene, reward_model, settings
from tests.trainer.test_ppo import train as train_ppo
from tests.trainer.test_reward import train as train_reward
from trainer import ppo, reward
from trainer.actors import Actors
from trainer.config import RewardConfig, SFTConfig
from trainer.data import load_rankings
from trainer.errors import ConfigError
from trainer.models import LanguageModel, ScalarModel, equip, trainable, trained
from trainer.padded import Padded, pad
from trainer.text import Codec

AGAIN = {"gradient_checkpointing": True}


def batch(rows: int = 3) -> tuple[Padded, Tensor]:
    tokens = pad([[5 + i, 9, 7, 3, 8, 1, 40, 12][: 8 - i] for i in range(rows)], 0, CPU)
    response = tokens.mask.clone()
    response[:, :2] = False
    return tokens, response


def loaded(folder: Path, frozen: int, **changes: Any) -> LanguageModel:
    model = LanguageModel.load(folder, frozen, "fp32", CPU)
    equip(model, SFTConfig(out="", **changes))
    return model


def gradients(model: LanguageModel, *, cut: bool = True) -> dict[str, Tensor]:
    """Of a sum of log-probabilities, the way through the frozen blocks taken apart, or not."""
    tokens, response = batch()
    lower = model.stack.lower(tokens) if cut else None
    model.logprobs(tokens, response, lower=lower).sum().backward()
    return {n: p.grad for n, p in trainable(model.model).items() if p.grad is not None}


def runs_of(model: LanguageModel | ScalarModel) -> list[int]:
    """Grows by the number of a block whenever a run of that block begins."""
    runs: list[int] = []
    for number, block in enumerate(model.stack.blocks):
        block.register_forward_pre_hook(lambda *_, n=number: runs.append(n))
    return runs


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 4}], ids=["weights", "lora"])
@pytest.mark.parametrize(("frozen", "cut"), [(0, True), (1, True), (1, False)])
def test_blocks_run_again_give_the_same_gradients(
    tiny_model: Path, frozen: int, cut: bool, lora: dict[str, Any]
) -> None:
    plain, again = loaded(tiny_model, frozen, **lora), loaded(tiny_model, frozen, **AGAIN, **lora)
    runs = runs_of(again)
    want, got = gradients(plain, cut=cut), gradients(again, cut=cut)
    assert runs == ([0, 1, 1, 0] if frozen == 0 else [0, 1, 1])
    assert want.keys() == got.keys() == trainable(again.model).keys()
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-6, rtol=1e-6)


def test_less_is_kept_for_the_backward_pass(tiny_model: Path) -> None:
    kept = []
    for changes in ({}, AGAIN):
        model, held = loaded(tiny_model, 0, **changes), dict[int, int]()

        def keep(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.logprobs(*batch())
        kept.append(sum(held.values()))
    assert kept[1] < kept[0] / 2


def test_no_block_runs_twice_without_gradients(tiny_model: Path) -> None:
    model = loaded(tiny_model, 0, **AGAIN)
    runs = runs_of(model)
    with torch.no_grad():
        model.logprobs(*batch())
    model.choices(*batch())
    assert runs == [0, 1, 0, 1]
    assert list(model.model.state_dict()) == list(loaded(tiny_model, 0).model.state_dict())


def test_dropout_drops_the_same_the_second_time(tiny_gpt2: Path) -> None:
    found = []
    for changes in ({}, AGAIN):
        model = loaded(tiny_gpt2, 0, **changes)
        model.stack.train(True)
        torch.manual_seed(3)
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"lora_rank": 4}], ids=["weights", "lora"])
def test_the_gradients_of_ppo_are_the_same(
    tmp_path: Path, tiny_model: Path, lora: dict[str, Any]
) -> None:
    """With LoRA each second run is with the adapter of the first."""
    folders = write_all(tmp_path / "data") | {"policy": tiny_model}
    if lora:
        train_reward(tmp_path / "rm", tiny_model, folders, lora_rank=2)
        folders |= {"reward": tmp_path / "rm" / "model"}
    else:
        folders |= {"reward": reward_model(tiny_model, tmp_path / "rm")}
    found = []
    for name, changes in (("plain", lora), ("again", lora | AGAIN)):
        scene = Scene(settings(tmp_path / name, folders, **changes))
        for _ in range(2):
            ppo.accumulate_gradients(
                scene.work,
                scene.rollout,
                scene.scored,
                scene.shaped,
                [0, 2, 5],
                scene.work.text.take(0, 2),
            )
            actors = scene.work.actors
            grads = {
                f"{n} {i}": p.grad.clone()
                for i, m in enumerate((actors.policy, actors.value))
                for n, p in trained(m).items()
            }
            scene.work.progress.optimiser.step(1.0)
        found.append(grads)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_a_reward_model_learns_the_same(tmp_path: Path, tiny_model: Path) -> None:
    folders = write_all(tmp_path / "data")
    plain = train_reward(tmp_path / "plain", tiny_model, folders)
    again = train_reward(tmp_path / "again", tiny_model, folders, **AGAIN)
    assert again["bias"] == pytest.approx(plain["bias"], abs=1e-5)


# ---- torch.compile ------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile needs a C++ compiler, and there is no g++ (or CXX) here",
)
quiet = pytest.mark.filterwarnings("ignore::Warning:torch", "ignore::DeprecationWarning")


@needs_compiler
@quiet
@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4} | AGAIN], ids=["plain", "lora"])
def test_compiled_blocks_give_the_loss_and_gradients_of_plain_ones(
    tiny_llama: Path, changes: dict[str, Any]
) -> None:
    plain, quick = loaded(tiny_llama, 1), loaded(tiny_llama, 1, compile=True)
    if changes:
        plain, quick = (
            loaded(tiny_llama, 0, **changes),
            loaded(tiny_llama, 0, compile=True, **changes),
        )
    assert list(quick.model.state_dict()) == list(plain.model.state_dict())
    for rows in (3, 2):
        with torch.no_grad():
            got, want = quick.logprobs(*batch(rows)), plain.logprobs(*batch(rows))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    found = gradients(quick)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@needs_compiler
@quiet
@pytest.mark.slow
def test_batches_of_any_shape_and_all_blocks_with_dropout_share_one_piece_of_code(
    tiny_llama: Path,
) -> None:
    from torch._dynamo.utils import counters

    plain, quick = loaded(tiny_llama, 0), loaded(tiny_llama, 0, compile=True)
    for model in (plain, quick):
        model.stack.set_dropout(0.2, 1)
        model.stack.train(True, 3)
    before = counters["stats"]["unique_graphs"]
    for lengths in ((5, 8), (3, 6, 7), (6,) * 4, (4,), (9, 9), (2, 2, 2, 10)):
        tokens = pad([range(3, 3 + length) for length in lengths], 0, CPU)
        asked = tokens.mask.clone()
        asked[:, 0] = False
        quick.logprobs(tokens, asked).sum().backward()
        plain.logprobs(tokens, asked).sum().backward()
    assert counters["stats"]["unique_graphs"] == before + 1
    found = trainable(quick.model)
    for name, parameter in trainable(plain.model).items():
        torch.testing.assert_close(found[name].grad, parameter.grad, atol=1e-4, rtol=1e-4)


@needs_compiler
@quiet
@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path: Path, tiny_llama: Path) -> None:
    data = write_all(tmp_path / "data")["demonstrations"]
    plain = train(config(tmp_path / "plain", tiny_llama, data))
    quick = train(config(tmp_path / "quick", tiny_llama, data, compile=True))
    for a, b in zip(plain, quick, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)


def blocks_run(model: LanguageModel | ScalarModel) -> set[str]:
    """Kinds of modules that a model runs as its blocks."""
    return {type(block).__name__ for block in model.stack._as_run()}


@needs_compiler
@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_reward_model_has_the_loss_and_gradients_of_a_plain_one(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """Whole rankings, behind a prompt that is run once, in micro-batches of several shapes."""
    folder = write_all(tmp_path)["comparisons"]
    rankings = load_rankings(folder, Codec.load(tiny_llama), 200).train[:6]
    found = []
    for chosen in (False, True):
        asked = RewardConfig(out="", micro_tokens=400, compile=chosen)
        model = ScalarModel.fresh(tiny_llama, 0, "fp32", CPU, pad_id=0, seed=0)
        equip(model, asked)
        assert model.stack.segments
        assert (blocks_run(model) == {"OptimizedModule"}) is chosen
        loss = reward.backward_loss(model, rankings, 0, asked).loss
        weights = trainable(model.model)
        found.append((loss, {n: p.grad for n, p in weights.items() if p.grad is not None}))
    (loss, gradients), (quick_loss, quick) = found
    assert quick_loss == pytest.approx(loss, abs=1e-6)
    assert quick.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(quick[name], gradient, atol=1e-5, rtol=1e-4)


@needs_compiler
@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_run_of_ppo_ends_in_the_weights_of_a_plain_one(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """To a hundredth of a step's 1e-3: Adam makes much of what is rounding in a small gradient."""
    folders = write_all(tmp_path / "data") | {"policy": tiny_llama}
    folders |= {"reward": reward_model(tiny_llama, tmp_path / "rm")}
    how = {"minibatch": 8, "save_value": True, "ema_decay": 0.0, "eval_prompts": 0}
    weights = []
    for chosen in (False, True):
        out = tmp_path / str(chosen)
        train_ppo(settings(out, folders, compile=chosen, **how))
        weights.append(
            {
                f"{part} {name}": tensor
                for part in ("model", "value")
                for name, tensor in load_file(out / part / "model.safetensors").items()
            }
        )
    actors = Actors(settings(tmp_path / "again", folders, compile=True, **how))
    for model in (actors.policy, actors.reference, actors.value, actors.reward):
        assert blocks_run(model) == {"OptimizedModule"}
    plain, quick = weights
    start = load_file(tiny_llama / "model.safetensors")
    assert plain.keys() == quick.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(quick[name], tensor, atol=1e-5, rtol=0)
    moved = max(float((plain[f"model {n}"] - old).abs().max()) for n, old in start.items())
    assert moved > 1e-3


@pytest.mark.slow
def test_without_a_compiler_the_stage_says_what_to_do(tmp_path: Path, tiny_llama: Path) -> None:
    data = write_all(tmp_path / "data")["demonstrations"]
    out = tmp_path / "run"
    out.mkdir()
    plain = {"out": str(out), "model": str(tiny_llama), "demonstrations": str(data)}
    (out / "config.json").write_text(json.dumps(plain | {"compile": True}))
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "sft", "--config", str(out / "config.json")],
        cwd=Path(__file__).parents[2],
        env=os.environ
        | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == ConfigError.exit_code, done.stderr
    said = json.loads((out / "error.json").read_text())["message"]
    assert "torch.compile cannot make code on this machine" in said
    assert "Install a C++ compiler (g++) or name one in CXX, or set compile to false." in said
