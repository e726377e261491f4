"""PPO with LoRA: one backbone in memory is policy, reference, value model and reward model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.trainer.snapshots import write_all
from tests.trainer.test_adapters import with_adapter
from tests.trainer.test_ppo import CPU, Scene, reward_model, settings, train
from tests.trainer.test_reward import train as train_reward
from tests.trainer.tiny import build_tiny
from trainer import ppo
from trainer.actors import OTHER_TOKENIZER, Actors
from trainer.models import LanguageModel, ScalarModel, trained
from trainer.one_backbone import LOADED_WHOLE
from trainer.padded import Padded
from trainer.records import read_manifest
from trainer.sampler import sampler_of

LORA = {"lora_rank": 4}


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Path) -> dict[str, Path]:
    """The reward model was trained with LoRA on the policy itself."""
    found = write_all(tmp_path / "data")
    train_reward(tmp_path / "rm", tiny_model, found, lora_rank=2, lora_dropout=0.3)
    return found | {"policy": tiny_model, "reward": tmp_path / "rm" / "model"}


def shares_of(actors: Actors) -> list[list[int]]:
    """Where the matrices and vectors of each model's backbone are, adapters left out."""
    models = (actors.policy, actors.reference, actors.value, actors.reward)
    return [
        [p.data_ptr() for n, p in m.stack.backbone.named_parameters() if ".lora_" not in n]
        for m in models
    ]


def states(actors: Actors) -> tuple[Padded, Tensor]:
    ids = torch.tensor([[5, 9, 7, 3, 8, 1, 40, 2], [6, 2, 9, 9, 1, 0, 0, 0]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 5:] = False
    response = mask.clone()
    response[:, :2] = False
    return Padded(ids, mask), response


def test_one_backbone_is_in_memory(tmp_path: Path, folders: dict[str, Path]) -> None:
    actors = Actors(settings(tmp_path / "run", folders, **LORA))
    assert actors.notes == ()
    one, *others = shares_of(actors)
    assert all(other == one for other in others)
    plain = AutoModelForCausalLM.from_pretrained(folders["policy"])
    assert len(set(one)) == len(list(plain.base_model.parameters()))
    held = {
        id(p): p.numel()
        for m in (actors.policy, actors.reference, actors.value, actors.reward)
        for n, p in m.model.named_parameters()
        if ".lora_" not in n and "score" not in n
    }
    assert sum(held.values()) == sum(p.numel() for p in plain.parameters())
    assert {id(p) for p in sampler_of(actors.policy).parameters()} == {
        id(p) for p in actors.policy.model.parameters()
    }


def test_policy_and_value_model_train_their_own_adapters(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    actors = Actors(settings(tmp_path / "run", folders, **LORA))
    policy, value = trained(actors.policy), trained(actors.value)
    assert all(".policy." in name for name in policy)
    heads = {name for name in value if ".value." not in name}
    assert heads == {"score.weight", "score.bias"}
    assert not {id(p) for p in policy.values()} & {id(p) for p in value.values()}
    assert not trained(actors.reward) and not trained(actors.reference)


@pytest.mark.slow
def test_the_policy_starts_as_its_reference_which_is_the_sft_model(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    scene = Scene(settings(tmp_path / "run", folders, **LORA))
    assert torch.equal(scene.scored.logprobs, scene.scored.reference)
    actors = scene.work.actors
    plain = LanguageModel.load(folders["policy"], 0, "fp32", CPU)
    assert torch.equal(actors.reference.logprobs(*states(actors)), plain.logprobs(*states(actors)))
    whole = Scene(settings(tmp_path / "whole", folders))
    assert scene.rollout == whole.rollout


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_scores_and_values_are_those_of_the_reward_model(
    tmp_path: Path, folders: dict[str, Path], frozen: int
) -> None:
    """Also where its adapter reaches below what PPO freezes."""
    scene = Scene(settings(tmp_path / "run", folders, freeze_layers=frozen, **LORA))
    actors = scene.work.actors
    assert actors.shares is (frozen == 0)
    whole = ScalarModel.load(folders["reward"], 0, "fp32", CPU)
    tokens = scene.rollout.batch(range(8), actors.codec.pad_id, CPU).tokens
    want = whole.scores(tokens)
    torch.testing.assert_close(scene.scored.scores, want, atol=1e-5, rtol=1e-5)
    lower = actors.value.stack.lower(tokens)
    torch.testing.assert_close(actors.value.scores(tokens, lower=lower), want, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_steps_move_policy_and_value_model_and_leave_reference_and_reward_model(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    scene = Scene(settings(tmp_path / "run", folders, **LORA))
    actors = scene.work.actors
    tokens, response = states(actors)

    def seen() -> list[Tensor]:
        with torch.no_grad():
            return [
                actors.reference.logprobs(tokens, response),
                actors.reward.scores(tokens),
                actors.policy.logprobs(tokens, response),
                actors.value.scores(tokens),
            ]

    before = seen()
    rows, windows = [0, 2, 5, 7], scene.work.text.take(0, 2)
    for _ in range(2):  # the gradient of A is 0 while B is
        ppo.accumulate_gradients(
            scene.work, scene.rollout, scene.scored, scene.shaped, rows, windows
        )
        for model in (actors.policy, actors.value):
            assert all(p.grad is not None for p in trained(model).values())
        scene.work.progress.optimiser.step(1.0)
    after = seen()
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])
    assert not torch.allclose(after[2], before[2], atol=1e-4)
    assert not torch.allclose(after[3], before[3], atol=1e-4)


@pytest.mark.slow
def test_a_whole_reward_model_is_a_second_backbone_that_the_value_model_is_on(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    folders = folders | {"reward": reward_model(folders["policy"], tmp_path / "whole")}
    scene = Scene(settings(tmp_path / "run", folders, **LORA))
    actors = scene.work.actors
    assert actors.notes == (LOADED_WHOLE,)
    policy, reference, value, reward = shares_of(actors)
    assert policy == reference and value == reward and not set(policy) & set(value)
    want = ScalarModel.load(folders["reward"], 0, "fp32", CPU)
    tokens = scene.rollout.batch(range(8), actors.codec.pad_id, CPU).tokens
    assert torch.equal(actors.reward.scores(tokens), want.scores(tokens))
    assert torch.equal(actors.value.scores(tokens), want.scores(tokens))


@pytest.mark.slow
def test_a_reward_model_of_another_sft_model_is_loaded_whole(
    tmp_path: Path, tiny_llama: Path
) -> None:

    other = build_tiny(tmp_path / "other", "llama", seed=9)
    folders = write_all(tmp_path / "data") | {"policy": tiny_llama}
    train_reward(tmp_path / "rm", other, folders, lora_rank=2)
    folders |= {"reward": tmp_path / "rm" / "model"}
    actors = Actors(settings(tmp_path / "run", folders, **LORA))
    assert LOADED_WHOLE in actors.notes


@pytest.mark.slow
def test_a_reward_model_of_another_tokenizer_leaves_the_value_model_on_the_policy(
    tmp_path: Path, tiny_llama: Path, tiny_gpt2: Path
) -> None:
    folders = write_all(tmp_path / "data")
    folders |= {"policy": tiny_llama, "reward": reward_model(tiny_gpt2, tmp_path / "rm")}
    scene = Scene(settings(tmp_path / "run", folders, **LORA))
    actors = scene.work.actors
    assert actors.notes == (OTHER_TOKENIZER, LOADED_WHOLE)
    policy, reference, value, reward = shares_of(actors)
    assert policy == reference == value and not set(policy) & set(reward)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"against_forgetting": "null_space",
    "null_space_gradients": 2, "null_space_sequences": 1}], ids=["fp32", "bf16", "null space"])  # fmt: skip
def test_a_run_saves_whole_weights_and_an_adapter_that_say_the_same(
    tmp_path: Path, folders: dict[str, Path], changes: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    lines = train(settings(out, folders, epochs=2, ema_decay=0.5, **LORA, **changes))
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[1]["kl"] != 0
    base = AutoModelForCausalLM.from_pretrained(folders["policy"])
    ids = torch.tensor([[5, 9, 7, 3, 8]])
    with torch.no_grad():
        start = base(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out / "model")(ids).logits
        together = with_adapter(base, out / "adapter")(ids).logits
    assert not torch.allclose(merged, start, atol=1e-4)
    torch.testing.assert_close(merged, together, atol=1e-5, rtol=1e-5)
    assert "adapter/adapter_model.safetensors" in read_manifest(out, verify=True).files


@pytest.mark.slow
def test_kept_hidden_states_change_no_gradient(tmp_path: Path, folders: dict[str, Path]) -> None:
    found = []
    for keeps in (True, False):
        config = settings(
            tmp_path / str(keeps), folders, freeze_layers=1, keep_frozen_states=keeps, **LORA
        )
        scene = Scene(config)
        grads = scene.work.actors
        ppo_gradients(scene)
        found.append(
            {n: p.grad for m in (grads.policy, grads.value) for n, p in trained(m).items()}
        )
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def ppo_gradients(scene: Scene) -> None:

    ppo.accumulate_gradients(scene.work, scene.rollout, scene.scored, scene.shaped, [5, 0, 3], [])
