"""The generator: padding, keyed noise, endings."""

import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from trainer.errors import ModelError, NumericError
from trainer.generate import (
    Generated,
    _closed_up,
    _Room,
    draw,
    generate,
    load_generator,
    uniforms,
)
from trainer.models import LanguageModel
from trainer.padded import pad

NEW = 24


def prompts_of(lengths: list[int]) -> list[list[int]]:
    pick = random.Random(4)
    return [[pick.randrange(3, 380) for _ in range(length)] for length in lengths]


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return load_generator(tiny_model, "fp32")


@pytest.fixture
def sample(model: Any) -> Callable[..., list[Generated]]:
    """Sampling with few words; ids 2, 11 and 30 to 60 end a row, so that rows end early."""

    def call(prompts: list[list[int]], keys: list[str], **kwargs: Any) -> list[Generated]:
        settings: dict[str, Any] = {
            "codec_end_ids": {2, 11, *range(30, 60)},
            "pad_id": 2,
            "seed": 7,
            "temperature": 1.0,
            "max_new_tokens": NEW,
            "batch": 64,
        }
        return generate(model, prompts=prompts, keys=keys, **(settings | kwargs))

    return call


def plain_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits after each token of one unpadded row."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]  # type: ignore[no-any-return]


def test_greedy_completions_are_those_of_the_unpadded_uncached_model(
    model: Any, sample: Callable[..., list[Generated]]
) -> None:
    prompts = prompts_of([3, 29, 11, 1])
    drawn = sample(prompts, list("abcd"), temperature=0.0, codec_end_ids=())
    for prompt, completion in zip(prompts, drawn, strict=True):
        ids = list(prompt)
        for token in completion.token_ids:
            assert int(plain_logits(model, ids)[-1].argmax()) == token
            ids.append(token)
        assert len(completion.token_ids) == NEW


@pytest.mark.slow
def test_a_rows_sample_does_not_depend_on_batch_order_or_company(
    sample: Callable[..., list[Generated]],
) -> None:
    prompts, keys = prompts_of([5, 40, 17, 8, 23]), [f"row/{i}" for i in range(15)]
    together = sample(prompts, keys, answers=3)
    assert together == sample(prompts, keys, answers=3, batch=4)
    assert together == sample(prompts, keys, answers=3, batch=7)
    alone = [sample([prompts[i // 3]], [keys[i]])[0] for i in range(15)]
    assert together == alone
    order = list(range(15))
    random.Random(1).shuffle(order)
    shuffled = sample([prompts[i // 3] for i in order], [keys[i] for i in order], batch=6)
    assert [shuffled[order.index(i)] for i in range(15)] == together
    assert len({tuple(row.token_ids) for row in together}) == 15  # and the rows do differ
    lengths = {len(row.token_ids) for row in together}
    assert len(lengths) > 3  # rows left the batch at different times


def test_only_rows_that_fill_a_gap_move() -> None:
    assert _closed_up([0, 2, 3, 6, 7]) == [0, 6, 2, 3, 7]
    assert _closed_up([3]) == [3]
    assert _closed_up([0, 1]) == [0, 1]


def test_a_cache_keeps_repeats_and_goes_on_as_a_plain_one() -> None:
    """Against rows picked out of everything that was put in; ``held_in`` changes no number."""
    torch.manual_seed(0)
    parts = [torch.randn(5, 2, width, 4) for width in (3, 1, 1)]
    room = _Room(3, torch.float64)
    room.update(parts[0], -parts[0])
    want = parts[0]
    for part, rows in ((parts[1], [0, 4, 2]), (parts[2][:3], [1, 1, 0, 2])):
        keys, values = room.update(part, -part)
        want = torch.cat([want, part], dim=2)
        assert keys.dtype == torch.float64
        assert torch.equal(keys.float(), want)
        room.batch_select_indices(torch.tensor(rows))
        want = want[rows]
        assert torch.equal(room.keys.float(), want)
        assert torch.equal(room.values.float(), -want)
    last = torch.randn(4, 2, 1, 4)
    keys, values = room.update(last, -last)
    assert torch.equal(keys.float(), torch.cat([want, last], dim=2))
    assert torch.equal(values, -keys)


def test_a_bf16_model_draws_where_nothing_but_the_generator_is_loaded(tiny_llama: Path) -> None:
    """As stage ``sample`` does: its cache is in fp32, which only our attention can take."""
    told = """
import sys, torch
from trainer.generate import _new_cache, generate, load_generator
assert "trainer.stack" not in sys.modules
model = load_generator(sys.argv[1], "bf16")
assert _new_cache(model, 4).layers[0].held_in == torch.float32
rows = generate(model, prompts=[[5, 7]], keys=["a"], codec_end_ids=(), pad_id=2, seed=0,
                temperature=1.0, max_new_tokens=4, batch=1)
print(len(rows[0].token_ids))
"""
    done = subprocess.run(
        [sys.executable, "-c", told, str(tiny_llama)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[-1:] == ["4"], done.stderr


def test_another_seed_or_key_gives_another_sample(
    sample: Callable[..., list[Generated]],
) -> None:
    prompts = prompts_of([9])
    first = sample(prompts, ["a"])
    assert first == sample(prompts, ["a"])
    assert first != sample(prompts, ["b"])
    assert first != sample(prompts, ["a"], seed=8)


def test_a_shorter_limit_gives_the_beginning_of_the_same_sample(
    sample: Callable[..., list[Generated]],
) -> None:
    prompts, keys = prompts_of([9, 14]), ["a", "b"]
    long = sample(prompts, keys, codec_end_ids=())
    short = sample(prompts, keys, codec_end_ids=(), max_new_tokens=6)
    assert [row.token_ids[:6] for row in long] == [row.token_ids for row in short]


@pytest.mark.slow
def test_an_end_token_ends_a_row_and_stays_in_it(sample: Callable[..., list[Generated]]) -> None:
    ends = {2, 11, *range(30, 60)}
    rows = sample(prompts_of([6] * 12), [str(i) for i in range(12)])
    assert any(row.finished for row in rows)
    for row in rows:
        assert not ends & set(row.token_ids[:-1])
        assert row.finished == (row.token_ids[-1] in ends)
        assert row.finished or len(row.token_ids) == NEW


@pytest.mark.slow
def test_a_stop_sequence_ends_a_row(sample: Callable[..., list[Generated]]) -> None:
    rows = sample(prompts_of([6, 9]), ["a", "b"], codec_end_ids=(), stopped=lambda i: len(i) == 5)
    assert [(len(row.token_ids), row.finished) for row in rows] == [(5, True), (5, True)]


def test_every_row_is_told_as_it_ends(sample: Callable[..., list[Generated]]) -> None:
    told: dict[int, Generated] = {}
    rows = sample(
        prompts_of([6, 9]), list("abcdef"), answers=3, progress=lambda i, row: told.update({i: row})
    )
    assert [told[i] for i in range(6)] == rows
    assert list(told) != sorted(told)  # as they end, not in order


def test_the_output_layer_reads_one_contiguous_position_a_row(
    model: Any, sample: Callable[..., list[Generated]]
) -> None:
    """Else a CPU copies the output layer's weights once a row: most of a prompt's time."""
    shapes = []

    def look(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        assert inputs[0].is_contiguous()
        shapes.append(tuple(inputs[0].shape[:2]))

    model.get_output_embeddings().register_forward_pre_hook(look)
    sample(prompts_of([6, 9, 4]), list("abcdef"), answers=2, codec_end_ids=(), max_new_tokens=3)
    assert shapes == [(3, 1), (6, 1), (6, 1)]  # each prompt once, then every answer


def test_a_check_before_every_token_may_give_up(
    model: Any, sample: Callable[..., list[Generated]]
) -> None:
    calls = []

    def give_up_at_the_fifth() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise InterruptedError

    model.train()
    with pytest.raises(InterruptedError):
        sample(prompts_of([6]), ["a"], codec_end_ids=(), each_step=give_up_at_the_fifth)
    assert len(calls) == 5
    assert model.training


def test_the_models_mode_is_given_back(model: Any, sample: Callable[..., list[Generated]]) -> None:
    model.train()
    before = sample(prompts_of([6]), ["a"])
    assert model.training
    model.eval()
    assert sample(prompts_of([6]), ["a"]) == before  # dropout was off while sampling


def test_what_does_not_fit_the_positions_is_a_model_error(
    sample: Callable[..., list[Generated]],
) -> None:
    assert len(sample(prompts_of([256 - NEW]), ["a"], codec_end_ids=())[0].token_ids) == NEW
    with pytest.raises(ModelError, match="need 257 positions; the model has 256"):
        sample(prompts_of([257 - NEW]), ["a"])


def test_keys_must_name_every_row(sample: Callable[..., list[Generated]]) -> None:
    with pytest.raises(ValueError, match="need as many keys"):
        sample(prompts_of([6]), ["a"], answers=2)


def test_no_prompts_give_no_completions(sample: Callable[..., list[Generated]]) -> None:
    assert sample([], []) == []


def test_damaged_weights_are_a_numeric_error(
    model: Any, sample: Callable[..., list[Generated]]
) -> None:
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(NumericError, match="no finite logits"):
        sample(prompts_of([6]), ["a"])


def test_a_folder_without_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no causal language model"):
        load_generator(tmp_path, "fp32")


def test_left_padding_with_positions_leaves_logits_unchanged(model: Any) -> None:
    ids = prompts_of([4])[0]
    padded = torch.tensor([[2, 2, *ids]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits
        shifted = model(input_ids=padded, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, 2:], plain_logits(model, ids), atol=1e-5, rtol=0)
    if model.config.model_type == "gpt2":  # a rotary model hides what an absolute one shows
        assert (shifted[0, 2:] - logits[0, 2:]).abs().max() > 0.01


PROMPT, RESPONSE = [23, 107], [11, 339, 300]
GOLDEN = [-7.9915, -8.1535, -7.9107]
"""Log-probabilities of the response by a seeded GPT-2, worked out once; they pin positions and masking."""


def test_gpt2_golden_values_hold_with_and_without_padding(tiny_gpt2: Path) -> None:
    model = load_generator(tiny_gpt2, "fp32")
    for pads in (0, 2, 7):
        ids = torch.tensor([[0] * pads + PROMPT + RESPONSE])
        mask = torch.tensor([[0] * pads + [1] * 5])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        logprobs = log_softmax(logits[0, -4:-1], dim=-1)
        got = [float(logprobs[i, token]) for i, token in enumerate(RESPONSE)]
        assert got == pytest.approx(GOLDEN, abs=1e-4)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("pads", [0, 2, 7])
def test_the_trainer_reads_the_golden_values_too_beside_a_longer_row(
    tiny_gpt2: Path, pads: int, left: bool
) -> None:
    cpu = torch.device("cpu")
    model = LanguageModel.load(tiny_gpt2, 0, "fp32", cpu)
    row = PROMPT + RESPONSE
    batch = pad([[5] * (len(row) + pads), row], 0, cpu, left=left)
    end = len(row) + (pads if left else 0)
    response = torch.zeros_like(batch.mask)
    response[1, end - 3 : end] = True
    with torch.no_grad():
        assert model.logprobs(batch, response).tolist() == pytest.approx(GOLDEN, abs=1e-4)
    assert model.choices(batch, response).logprobs.tolist() == pytest.approx(GOLDEN, abs=1e-4)


def test_the_noise_is_a_function_of_seed_and_key_only() -> None:
    long = uniforms(3, "p1/0", 100)
    assert np.array_equal(uniforms(3, "p1/0", 10), long[:10])
    assert long.min() >= 0
    assert long.max() < 1
    assert not np.array_equal(uniforms(4, "p1/0", 100), long)
    assert not np.array_equal(uniforms(3, "p1/1", 100), long)
    assert uniforms(0, "a", 4)[0] == pytest.approx(0.9678558832638403, abs=1e-15)  # on any machine


def test_drawing_inverts_the_cumulative_distribution() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))
    for noise, token in ((0.0, 0), (0.1999, 0), (0.2001, 1), (0.6999, 1), (0.7001, 2), (0.9999, 2)):
        assert draw(logits, torch.tensor([noise], dtype=torch.float64), 1.0).tolist() == [token]
    sharp = draw(logits, torch.tensor([0.14], dtype=torch.float64), 0.5)  # 4, 25, 9 of 38
    assert sharp.tolist() == [1]


def test_drawing_inverts_it_across_blocks_too() -> None:
    weights = torch.rand(1, 1000, generator=torch.Generator().manual_seed(1)) + 0.1
    exact = np.cumsum(weights.double().numpy()[0])
    exact /= exact[-1]
    for noise in (0.0, 0.1, 0.255, 0.256, 0.5, 0.77, 0.999, 1 - 2**-53):
        expected = int(np.searchsorted(exact, noise, side="right"))
        got = draw(weights.log(), torch.tensor([noise], dtype=torch.float64), 1.0).tolist()
        assert got == [min(expected, 999)]


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.full((1, 700), -math.inf)
    logits[0, [3, 255, 512]] = 0.0
    for noise in (0.0, 1 / 3 - 1e-9, 1 / 3 + 1e-9, 2 / 3 + 1e-9, 1 - 2**-53):
        (token,) = draw(logits, torch.tensor([noise], dtype=torch.float64), 1.0).tolist()
        assert token in (3, 255, 512)


def test_frequencies_match_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    noise = torch.from_numpy(uniforms(1, "frequencies", 20_000))
    tokens = draw(logits.expand(20_000, -1), noise, 0.7)
    counts = torch.bincount(tokens, minlength=4) / 20_000
    torch.testing.assert_close(counts, torch.softmax(logits[0] / 0.7, 0), atol=0.012, rtol=0)
