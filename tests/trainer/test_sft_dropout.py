"""Residual dropout of SFT: on both branches of every trained block, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from tests.trainer.sft_cast import CPU
from trainer.dropout import KeyedDropout, Noise, set_dropout
from trainer.models import LanguageModel
from trainer.padded import Padded, pad, pad_segments
from trainer.sampler import sampler_of
from trainer.stack import Stack

BATCH = pad([[5, 6, 7, 8, 9, 10]], 0, CPU)


def load(folder: Path, frozen: int = 0) -> LanguageModel:
    return LanguageModel.load(folder, frozen, "fp32", CPU)


def test_the_rate_of_dropout_that_is_there_is_changed(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2)
    assert model.stack.set_dropout(0.35, 1) == ()
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
    assert model.stack.set_dropout(0.25, 1) == ()
    model.stack.train(True)
    dropped = branches(model)
    assert set(dropped) == {"0.self_attn", "0.mlp", "1.self_attn", "1.mlp"}
    for name, branch in dropped.items():
        share = float((branch == 0).float().mean())
        assert 0.15 < share < 0.35, name
    first = dropped["0.self_attn"]
    kept = first != 0
    torch.testing.assert_close(first[kept], plain["0.self_attn"][kept] / 0.75)


def test_what_is_frozen_has_none_its_embeddings_included(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2, frozen=1)
    model.stack.set_dropout(0.25, 1)
    before = model.stack.lower(BATCH)
    assert before is not None
    model.stack.train(True)
    assert torch.equal(model.stack.lower(BATCH), before)


def test_it_is_off_outside_training_and_in_frozen_blocks(tiny_llama: Path) -> None:
    model = load(tiny_llama, frozen=1)
    before = model.stack.hidden(BATCH)
    model.stack.set_dropout(0.25, 1)
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


def test_a_rate_held_as_a_number_is_taken_out_and_put_behind_the_branches() -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "vocab_size": 30}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    settings = OPTConfig(dropout=0.1, attention_dropout=0.0, **sizes)
    for rate, share in ((0.35, 0.35), (0.0, 0.1)):
        model = OPTForCausalLM(settings)
        blocks = list(model.model.decoder.layers)
        attention, noise = blocks[0].self_attn.dropout, Noise(1)
        assert set_dropout(model, blocks, rate, noise) == ()
        assert [block.dropout for block in blocks] == [0, 0]
        assert blocks[0].self_attn.dropout == attention
        noise.follow(pad([list(range(2, 30))], 0, CPU))
        found: list[Any] = []
        for part in (blocks[1].self_attn, blocks[1].fc2):
            part.register_forward_hook(lambda _m, _a, out, to=found: to.append(out))
        for seed in (1, 2):
            torch.manual_seed(seed)
            model.train()(input_ids=torch.arange(2, 30)[None])
        firsts = [out[0] if isinstance(out, tuple) else out for out in found]
        assert torch.equal(firsts[0], firsts[2]) and torch.equal(firsts[1], firsts[3]), "no seed"
        for out in found:
            branch = out[0] if isinstance(out, tuple) else out
            dropped = float((branch == 0).float().mean())
            assert share - 0.08 < dropped < share + 0.08


def test_an_architecture_whose_branches_are_not_known_is_told() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=30, hidden_size=16, n_layer=2, n_head=2))
    blocks = list(model.transformer.h)
    (note,) = set_dropout(model, blocks, 0.2, Noise(1))
    assert note.startswith("residual_dropout was not applied: where BloomBlock has residual")
    assert set_dropout(model, blocks, 0, Noise(1)) == ()


def test_a_module_that_serves_both_branches_does_not_drop_the_same_twice() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 30}
    settings = PhiConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    torch.manual_seed(1)
    model = PhiForCausalLM(settings).eval()
    stack = Stack(model.model, 0, "fp32")
    assert stack.set_dropout(0.5, 1) == ()
    stack.train(True)
    found = []
    drop = model.model.layers[0].resid_dropout
    drop.register_forward_hook(lambda _m, _a, out: found.append(out == 0))
    stack.hidden(BATCH)
    assert 0.2 < float((found[0] == found[1]).float().mean()) < 0.8


def test_where_nothing_is_dropped_no_pass_is_followed(tiny_llama: Path, tiny_gpt2: Path) -> None:
    for folder, followed in ((tiny_llama, False), (tiny_gpt2, True)):
        stack = load(folder).stack
        stack.set_dropout(0, 1)
        assert (stack.noise is not None) == followed


def test_zero_leaves_the_models_own_setting(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2)
    model.stack.set_dropout(0, 1)
    assert model.model.transformer.h[0].mlp.dropout.p == pytest.approx(0.1)


# ---- its noise --------------------------------------------------------------------------------------

SEQUENCES = [[5, 6, 7, 8], [9, 5], [5, 6, 7, 9, 4, 3]]


def noise_of(batch: Padded, *, seed: int = 1, step: int = 0, place: int = 3) -> torch.Tensor:
    """What dropout at one half leaves of ones: [T, 64] of all real tokens, row by row."""
    noise = Noise(seed)
    noise.step = step
    noise.follow(batch)
    dropout = KeyedDropout(0.5, noise, place)
    return dropout(torch.ones(*batch.ids.shape, 64))[batch.mask]


def test_a_sequence_has_the_same_noise_however_it_is_batched() -> None:
    alone = [noise_of(pad([one], 0, CPU)) for one in SEQUENCES]
    for left in (False, True):
        assert torch.equal(noise_of(pad(SEQUENCES, 0, CPU, left=left)), torch.cat(alone))
    again = noise_of(pad(SEQUENCES[::-1], 0, CPU))
    assert torch.equal(again, torch.cat(alone[::-1]))
    packed = noise_of(pad_segments([[[], *SEQUENCES[:2]], [[], SEQUENCES[2]]], 0, CPU))
    assert torch.equal(packed, torch.cat(alone))
    noise, whole = Noise(1), pad(SEQUENCES, 0, CPU)
    noise.follow(whole, whole.mask.flatten().nonzero()[:, 0])
    row = noise.dropped(torch.ones(1, 12, 64), 0.5, torch.tensor(3 << 32))[0]
    assert torch.equal(row, torch.cat(alone)), "real tokens in one row"


def test_its_noise_is_another_in_each_sequence_token_place_step_and_run() -> None:
    first, _, other = (noise_of(pad([one], 0, CPU)) for one in SEQUENCES)
    kinds = [
        first[0], first[1], other[0],  # tokens; another sequence that begins alike
        noise_of(pad(SEQUENCES[:1], 0, CPU), place=4)[0],
        noise_of(pad(SEQUENCES[:1], 0, CPU), step=1)[0],
        noise_of(pad(SEQUENCES[:1], 0, CPU), seed=2)[0],
    ]  # fmt: skip
    for i, one in enumerate(kinds):
        assert set(one.tolist()) == {0.0, 2.0}
        for another in kinds[:i]:
            assert 0.2 < float((one == another).float().mean()) < 0.8


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_as_many_are_dropped_as_the_rate_says_and_the_mean_stays(rate: float) -> None:
    noise = Noise(3)
    noise.follow(pad([[i * j % 97 for j in range(64)] for i in range(1, 17)], 0, CPU))
    kept = torch.stack(
        [noise.dropped(torch.ones(16, 64, 96), rate, torch.tensor(k << 32)) for k in range(4)]
    )
    assert float((kept == 0).float().mean()) == pytest.approx(rate, abs=0.004)
    assert float(kept.mean()) == pytest.approx(1, abs=0.004)
    one = (kept == 0).float() - rate
    for shift, dim in ((1, 0), (1, 1), (1, 2), (1, 3), (7, 3)):  # neighbours are independent
        together = float((one * one.roll(shift, dim)).mean()) / (rate * (1 - rate))
        assert abs(together) < 0.01, (shift, dim)


def test_attention_weights_have_plain_dropout() -> None:
    noise = Noise(1)
    noise.follow(pad(SEQUENCES, 0, CPU))
    probabilities = torch.ones(3, 2, 6, 6)
    torch.manual_seed(5)
    found = noise.dropped(probabilities, 0.5, torch.tensor(0))
    torch.manual_seed(5)
    assert torch.equal(found, torch.nn.functional.dropout(probabilities, 0.5))
