"""Residual dropout of SFT: on both branches of every trained block, and nowhere else."""

from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM

from tests.trainer.sft_cast import CPU
from trainer.dropout import set_residual_dropout
from trainer.models import LanguageModel
from trainer.padded import pad
from trainer.sampler import sampler_of

BATCH = pad([[5, 6, 7, 8, 9, 10]], 0, CPU)


def load(folder: Path, frozen: int = 0) -> LanguageModel:
    return LanguageModel.load(folder, frozen, "fp32", CPU)


def test_the_rate_of_dropout_that_is_there_is_changed(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2)
    assert set_residual_dropout(model.stack.blocks, 0.35) == ()
    rates = {n: m.p for n, m in model.model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert {name for name, rate in rates.items() if rate == 0.35} == {
        f"transformer.h.{i}.{part}"
        for i in (0, 1)
        for part in ("attn.resid_dropout", "mlp.dropout")
    }
    assert len(rates) > 4, "embeddings and attention weights have dropout of their own"


def branches(model: LanguageModel) -> dict[str, torch.Tensor]:
    """What attention and MLP of each block of a Llama add to the residual stream."""
    found: dict[str, torch.Tensor] = {}
    handles = []
    for i, block in enumerate(model.stack.blocks):
        for part in ("self_attn", "mlp"):

            def keep(_m: object, _a: object, out: object, name: str = f"{i}.{part}") -> None:
                found[name] = (out[0] if isinstance(out, tuple) else out).detach()

            handles.append(getattr(block, part).register_forward_hook(keep))
    model.stack.hidden(BATCH)
    for handle in handles:
        handle.remove()
    return found


def test_blocks_of_llamas_build_get_it_behind_attention_and_mlp(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    plain = branches(model)
    assert set_residual_dropout(model.stack.blocks, 0.25) == ()
    model.stack.train(True)
    torch.manual_seed(1)
    dropped = branches(model)
    assert set(dropped) == {"0.self_attn", "0.mlp", "1.self_attn", "1.mlp"}
    for name, branch in dropped.items():
        share = float((branch == 0).float().mean())
        assert 0.15 < share < 0.35, name
    first = dropped["0.self_attn"]
    kept = first != 0
    torch.testing.assert_close(first[kept], plain["0.self_attn"][kept] / 0.75)


def test_it_is_off_outside_training_and_in_frozen_blocks(tiny_llama: Path) -> None:
    model = load(tiny_llama, frozen=1)
    before = model.stack.hidden(BATCH)
    set_residual_dropout(model.stack.blocks, 0.25)
    torch.testing.assert_close(model.stack.hidden(BATCH), before, atol=0, rtol=0)
    model.stack.train(True)
    assert not torch.equal(model.stack.hidden(BATCH), before)
    found = branches(model)
    assert float((found["0.mlp"] == 0).float().mean()) == 0
    assert float((found["1.mlp"] == 0).float().mean()) > 0.1
    model.stack.train(False)
    model.precision = "bf16"
    sampler = sampler_of(model).base_model
    assert torch.equal(sampler(BATCH.ids)[0], sampler(BATCH.ids)[0]), "nor in the sampler's copy"


def test_a_rate_held_as_a_number_is_changed() -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "vocab_size": 30}
    model = OPTForCausalLM(OPTConfig(num_hidden_layers=2, num_attention_heads=2, **sizes))
    blocks = list(model.model.decoder.layers)
    attention = blocks[0].self_attn.dropout
    assert set_residual_dropout(blocks, 0.35) == ()
    assert [block.dropout for block in blocks] == [0.35, 0.35]
    assert blocks[0].self_attn.dropout == attention


def test_an_architecture_whose_branches_are_not_known_is_told() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=30, hidden_size=16, n_layer=2, n_head=2))
    (note,) = set_residual_dropout(list(model.transformer.h), 0.2)
    assert note.startswith("residual_dropout was not applied: where BloomBlock has residual")
    assert set_residual_dropout(list(model.transformer.h), 0) == ()


def test_zero_leaves_the_models_own_setting(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2)
    set_residual_dropout(model.stack.blocks, 0)
    assert model.model.transformer.h[0].mlp.dropout.p == pytest.approx(0.1)
