"""LoRA for SFT and the reward model: what is trained, what is saved, and that both say the same."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.trainer import sft_cast
from tests.trainer.snapshots import write_all
from tests.trainer.test_reward import train as train_reward
from trainer.adapters import Factors, merge
from trainer.config import SFTConfig, config_from_plain
from trainer.errors import ConfigError, ModelError
from trainer.models import LanguageModel, ScalarModel, equip, trainable
from trainer.padded import Padded
from trainer.records import read_manifest
from trainer.sampler import sampler_of

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 7, 3, 8, 1, 40, 12]])


def lora(**changes: Any) -> SFTConfig:
    return SFTConfig(out="", lora_rank=4, **changes)


def adapted(folder: Path, frozen: int = 0, **changes: Any) -> LanguageModel:
    model = LanguageModel.load(folder, frozen, changes.pop("precision", "fp32"), CPU)
    equip(model, lora(**changes))
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def batch() -> tuple[Padded, Tensor]:
    real = torch.ones_like(IDS, dtype=torch.bool)
    response = real.clone()
    response[:, :3] = False
    return Padded(IDS, real), response


def test_the_change_of_a_layer_is_alpha_over_r_times_b_a() -> None:
    factors = Factors(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [5.0]]))
    assert factors.change(0.5).tolist() == [[1.5, 3.0], [2.5, 5.0]]
    layer = nn.ModuleDict({"up": nn.Linear(2, 2, bias=False)})
    layer["up"].weight.data = torch.ones(2, 2)
    weights = {"up.lora_A.x.weight": factors.a, "up.lora_B.x.weight": factors.b}
    settings = SFTConfig(out="", lora_rank=1, lora_alpha=0.5)
    assert merge(layer, weights, settings)["up.weight"].tolist() == [[2.5, 4.0], [3.5, 6.0]]


@pytest.mark.slow
def test_adapters_alone_are_trained_and_change_nothing_at_first(tiny_model: Path) -> None:
    plain, model = LanguageModel.load(tiny_model, 0, "fp32", CPU), adapted(tiny_model)
    assert torch.equal(logits(model.model), logits(plain.model))
    names = trainable(model.model)
    assert names and all(".lora_" in name for name in names)
    assert all(n.endswith((".lora_A.adapter.weight", ".lora_B.adapter.weight")) for n in names)
    model.logprobs(*batch()).sum().backward()
    ups = [p for n, p in names.items() if ".lora_B." in n]
    assert all(p.grad is not None and bool(p.grad.any()) for p in ups)
    assert all(p.grad is None for n, p in model.model.named_parameters() if n not in names)


@pytest.mark.slow
def test_frozen_blocks_have_no_adapter(tiny_model: Path) -> None:
    whole, cut = adapted(tiny_model), adapted(tiny_model, frozen=1)
    assert 2 * len(trainable(cut.model)) == len(trainable(whole.model))
    lower = cut.stack.lower(batch()[0])
    assert lower is not None
    for name, p in trainable(cut.model).items():
        whole.model.get_parameter(name).data = p.data.add_(0.01)
    for name, p in trainable(whole.model).items():
        if name not in trainable(cut.model):
            p.data.zero_()
    got, want = cut.logprobs(*batch(), lower=lower), whole.logprobs(*batch())
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_the_layers_can_be_named(tiny_llama: Path) -> None:
    names = trainable(adapted(tiny_llama, lora_targets=("q_proj", "mlp.up_proj")).model)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"q_proj", "up_proj"}
    with pytest.raises(ModelError, match=r"lora_targets names 'query'.*they have .*q_proj"):
        adapted(tiny_llama, lora_targets=("query",))


def test_with_bf16_the_weights_that_stay_are_held_in_it_and_the_adapters_in_fp32(
    tiny_model: Path,
) -> None:
    model = adapted(tiny_model, precision="bf16")
    kinds = {".lora_" in n: p.dtype for n, p in model.model.named_parameters() if p.dim() == 2}
    assert kinds[True] == torch.float32
    blocks = [p for block in model.stack.blocks for n, p in block.named_parameters()]
    assert sum(p.dtype == torch.bfloat16 for p in blocks) >= 8
    plain = LanguageModel.load(tiny_model, 0, "bf16", CPU)
    assert torch.equal(model.logprobs(*batch()), plain.logprobs(*batch()))


def test_dropout_of_the_adapters_is_on_in_training_only_and_apart_from_the_residual_one(
    tiny_model: Path,
) -> None:
    model = adapted(tiny_model, lora_dropout=0.5)
    model.stack.set_dropout(0.2, 1)
    rates = {m.p for n, m in model.model.named_modules() if ".lora_dropout." in n}
    assert rates == {0.5}
    for p in trainable(model.model).values():
        p.data.add_(0.1)
    assert torch.equal(model.logprobs(*batch()), model.logprobs(*batch()))
    off = model.logprobs(*batch())
    model.stack.train(True, 1)
    first = model.logprobs(*batch())
    model.stack.train(True, 2)
    assert len({one.sum().item() for one in (off, first, model.logprobs(*batch()))}) == 3


@pytest.mark.slow
def test_the_sampler_is_the_model_itself(tiny_model: Path) -> None:
    for precision in ("fp32", "bf16"):
        model = adapted(tiny_model, precision=precision)
        sampler = sampler_of(model)
        assert {id(p) for p in sampler.parameters()} == {id(p) for p in model.model.parameters()}
        assert sampler.training is model.model.training
        before = logits(sampler)
        for p in trainable(model.model).values():
            p.data.add_(0.1)
        assert not torch.allclose(before, logits(sampler))


# ---- stages -------------------------------------------------------------------------------------


def with_adapter(base: Any, folder: Path) -> Any:
    """A model under a saved adapter, as peft itself reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by an old name
        return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_sft_saves_whole_weights_and_an_adapter_that_say_the_same(
    tmp_path: Path, tiny_model: Path, frozen: int
) -> None:
    data = write_all(tmp_path / "data")["demonstrations"]
    changes = {"epochs": 4, "lora_rank": 4, "lora_dropout": 0.1, "freeze_layers": frozen}
    out = tmp_path / "run"
    lines = sft_cast.train(sft_cast.config(out, tiny_model, data, learning_rate=1e-2, **changes))
    assert lines[-1]["loss"] < lines[0]["loss"]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    start = logits(base.eval())
    merged = logits(AutoModelForCausalLM.from_pretrained(out / "model").eval())
    together = logits(with_adapter(base, out / "adapter"))
    assert not torch.allclose(merged, start, atol=1e-2)
    torch.testing.assert_close(merged, together, atol=1e-5, rtol=1e-5)
    files = read_manifest(out, verify=True).files
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= files.keys()
    assert "adapter/README.md" not in files
    plain = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (plain["r"], plain["lora_alpha"], plain["peft_type"]) == (4, 16.0, "LORA")
    assert str(tmp_path) not in json.dumps(plain)


@pytest.mark.slow
def test_a_reward_model_saves_its_head_with_both(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "rm"
    metrics = train_reward(out, tiny_model, write_all(tmp_path / "data"), lora_rank=4)
    base: Any = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    together: Any = with_adapter(base, out / "adapter")
    merged = ScalarModel.load(out / "model", 0, "fp32", CPU)
    real = torch.ones_like(IDS, dtype=torch.bool)
    want = together(IDS).logits[:, 0] + metrics["bias"]
    torch.testing.assert_close(merged.scores(Padded(IDS, real)), want, atol=1e-5, rtol=1e-5)
    assert metrics["bias"] != 0


def test_an_encoder_reward_model_takes_adapters_too(tiny_bert: Path) -> None:
    model = ScalarModel.fresh(tiny_bert, 0, "fp32", CPU, pad_id=0, seed=0)
    before = model.scores(batch()[0])
    equip(model, lora())
    assert torch.equal(model.scores(batch()[0]), before)
    assert model.head.weight.requires_grad
    assert {".lora_" in n for n in trainable(model.model)} == {True, False}


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for stage, changes, said in (
        ("sft", {"lora_rank": -1}, "lora_rank is -1; it must be 0 or more"),
        ("sft", {"lora_dropout": 1.0}, "lora_dropout is 1.0; it must be 0 or more and under 1"),
        ("reward", {"lora_alpha": 0.0}, "lora_alpha is 0.0; it must be above 0"),
        ("pretrain", {"lora_rank": 4}, "pretraining trains the weights themselves"),
        ("pretrain", {"objective": "masked", "compile": True}, "are for the causal objective"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_from_plain(stage, {"out": "x"} | changes)
