"""A batch's real tokens in one row: the same numbers and gradients as with their padding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomModel, MistralConfig, MistralModel

from trainer import attention, stack
from trainer.attention import spread_apart, spread_of
from trainer.models import LanguageModel, ScalarModel
from trainer.padded import Padded, pad, pad_segments, rounded
from trainer.stack import Stack

CPU = torch.device("cpu")
ROWS = [list(range(5, 5 + n)) for n in (3, 11, 6)]


def noting(real: Any, seen: list[tuple[int, ...]]) -> Any:
    """An attention function that notes the shape of the queries it is given."""

    def noted(module: Any, query: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(tuple(query.shape))
        return real(module, query, *args, **options)

    return noted


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Of the queries that the attention of a run was given."""
    seen: list[tuple[int, ...]] = []
    functions, noted = attention.ALL_ATTENTION_FUNCTIONS, noting(attention.attend, seen)
    monkeypatch.setitem(functions, "sdpa", noted)
    return seen


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries that scores were made of, tokens spread over rows where they are."""
    seen: list[tuple[int, ...]] = []
    noted = noting(attention.sdpa_attention_forward, seen)
    monkeypatch.setattr(attention, "sdpa_attention_forward", noted)
    return seen


def test_a_spread_says_where_each_token_stands_and_which_stands_where() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    spread, real = spread_of(mask)
    assert spread.shape == (1, 2, 3, 3)
    assert real.tolist() == [0, 1, 3, 6, 7, 8]
    numbers, places = spread[0]
    assert numbers[mask].tolist() == [0, 1, 2, 3, 4, 5]
    assert places.flatten()[:6].tolist() == [0, 1, 3, 6, 7, 8]


@pytest.mark.parametrize(
    ("real", "kept"),
    [(1, 1), (31, 31), (32, 32), (33, 34), (63, 64), (65, 68), (1345, 1408), (1408, 1408)],
)
def test_so_much_padding_stays_that_few_numbers_of_tokens_come_up(real: int, kept: int) -> None:
    mask = torch.zeros(1, 2000, dtype=torch.bool)
    mask[0, :real] = True
    found = rounded(mask)
    assert int(found.sum()) == kept
    assert found[mask].all()
    assert int(mask.sum()) == real, "what was asked about stays as it was"


def test_where_there_is_too_little_padding_all_of_it_stays() -> None:
    mask = torch.ones(2, 65, dtype=torch.bool)
    mask[1, 64] = False
    assert rounded(mask).all(), "129 of 130, 136 wanted"


def test_what_was_kept_of_padding_changes_nothing(
    tiny_model: Path, shapes: list[tuple[int, ...]]
) -> None:
    rows = [[3 + (7 * i + k) % 11 for i in range(width)] for k, width in enumerate((30, 61, 38))]
    batch = pad(rows, 0, CPU)
    model = LanguageModel.load(tiny_model, 0, "fp32", CPU)
    widths = []
    model.stack.backbone.register_forward_pre_hook(
        lambda *given: widths.append(given[2]["input_ids"].shape), with_kwargs=True
    )
    got = model.stack.hidden(batch)[batch.mask]
    assert widths == [(1, 136)]
    model.stack.unpads = False
    torch.testing.assert_close(got, model.stack.hidden(batch)[batch.mask], atol=1e-5, rtol=1e-5)


def test_a_single_row_has_one_of_padding_beside_it() -> None:
    ((numbers, places),) = spread_of(torch.ones(1, 3, dtype=torch.bool))[0]
    assert numbers[0].tolist() == places[0].tolist() == [0, 1, 2]
    assert numbers.shape == (2, 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_log_probabilities_and_gradients_are_those_of_padded_rows(
    tiny_model: Path, frozen: int, precision: Any, shapes: list[tuple[int, ...]]
) -> None:
    model = LanguageModel.load(tiny_model, frozen, precision, CPU)
    assert model.stack.unpads
    batch = pad(ROWS, 0, CPU)
    asked = batch.mask.clone()
    asked[:, 0] = False
    found = []
    for unpads in (False, True):
        model.stack.unpads = unpads
        model.model.zero_grad()
        shapes.clear()
        lower = model.stack.lower(batch)
        logprobs = model.logprobs(batch, asked, lower=lower)
        logprobs.sum().backward()
        assert {shape[0] * shape[2] for shape in shapes} == {20 if unpads else 33}
        grads = [p.grad for p in model.model.parameters() if p.requires_grad]
        found.append([logprobs.detach(), *grads])
    near = {"atol": 1e-5, "rtol": 1e-4} if precision == "fp32" else {"atol": 2e-2, "rtol": 2e-2}
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, **near)


def test_values_at_real_tokens_and_scores_are_those_of_padded_rows(tiny_model: Path) -> None:
    model = ScalarModel.fresh(tiny_model, 0, "fp32", CPU, pad_id=0, seed=0)
    batch = pad(ROWS, 0, CPU)
    with torch.no_grad():
        got, scores = model.values(batch), model.scores(batch)
        model.stack.unpads = False
        want = model.values(batch)
        torch.testing.assert_close(scores, model.scores(batch), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[batch.mask], want[batch.mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [[[5, 6, 7]] * 3, [list(range(40)), list(range(39))]])
def test_where_there_is_little_padding_rows_stay(
    rows: list[list[int]], tiny_llama: Path, shapes: list[tuple[int, ...]]
) -> None:
    model = LanguageModel.load(tiny_llama, 0, "fp32", CPU)
    shapes.clear()
    model.stack.hidden(pad(rows, 0, CPU))
    assert {shape[0] for shape in shapes} == {len(rows)}


def test_padding_on_the_left_and_short_segments_stay(
    tiny_llama: Path, shapes: list[tuple[int, ...]]
) -> None:
    model = LanguageModel.load(tiny_llama, 0, "fp32", CPU)
    left = pad(ROWS, 0, CPU, left=True)
    segments = pad_segments([[[5, 6], [7, 8], [9]], [[5], [6]]], 0, CPU)
    assert not left.plain and not segments.plain
    for batch in (left, segments):
        shapes.clear()
        model.stack.hidden(batch)
        assert {shape[0] for shape in shapes} == {len(batch.ids)}


# ---- sequences with a part in common ---------------------------------------------------------


def ranking(prompt: int, *answers: int) -> list[list[int]]:
    """A prompt and its answers of so many tokens, no two rows of them alike."""
    return [[3 + (5 * i + 7 * k) % 13 for i in range(n)] for k, n in enumerate((prompt, *answers))]


def test_the_places_of_a_sequence_are_those_of_the_common_part_and_its_own() -> None:
    batch = pad_segments([[[1, 2], [3, 4, 5], [6]], [[7], [8]], [[9]], [[], [1], [2, 3]]], 0, CPU)
    assert [each.tolist() for each in batch.sequences] == [
        [0, 1, 2, 3, 4], [0, 1, 5], [6, 7], [12], [18], [19, 20],
    ]  # fmt: skip


def test_a_token_in_common_stands_in_every_row_and_is_asked_about_in_the_first() -> None:
    answers = [[2, 3], [4], [5, 6], [7], [8, 9], [10], [11, 12], [13]]
    found = spread_apart(pad_segments([[[1], *answers]], 0, CPU))
    assert found is not None
    ((numbers, places, _),), real = found
    assert real.tolist() == list(range(13))
    assert [row[: 1 + len(own)].tolist() for row, own in zip(numbers, answers, strict=True)] == [
        [0, 1, 2], [0, 3], [0, 4, 5], [0, 6], [0, 7, 8], [0, 9], [0, 10, 11], [0, 12],
    ]  # fmt: skip
    assert places.flatten()[:13].tolist() == [0, 1, 2, 4, 7, 8, 10, 13, 14, 16, 19, 20, 22]


def test_rows_stay_under_a_mask_where_it_is_no_more_than_twice_the_work() -> None:
    assert spread_apart(pad_segments([ranking(9, 1, 1, 1)], 0, CPU)) is None
    assert spread_apart(pad_segments([ranking(1, 9, 9, 9)], 0, CPU)) is not None


def test_what_attention_takes_grows_with_the_number_of_answers_and_not_with_its_square(
    tiny_llama: Path, products: list[tuple[int, ...]]
) -> None:
    model = LanguageModel.load(tiny_llama, 0, "fp32", CPU)
    taken = {}
    for answers in (4, 8):
        products.clear()
        model.stack.hidden(pad_segments([ranking(4, *[16] * answers)], 0, CPU))
        taken[answers] = sum(rows * width**2 for rows, _, width, _ in products)
    assert taken[8] == 2 * taken[4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_sequences_in_rows_of_their_own_give_what_a_mask_gives(
    tiny_model: Path,
    frozen: int,
    precision: Any,
    products: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [ranking(4, 16, 9, 14, 16, 12), ranking(7, 11, 17, 3, 12, 8, 4), ranking(5, 16, 16)]
    batch = pad_segments(rows, 0, CPU)
    found = []
    for apart in (False, True):
        model = ScalarModel.fresh(tiny_model, frozen, precision, CPU, pad_id=0, seed=0)
        with monkeypatch.context() as patch:
            if not apart:
                patch.setattr(attention, "spread_apart", lambda batch: None)
            products.clear()
            values = model.values(batch, lower=model.stack.lower(batch))[batch.mask]
            (values * torch.arange(len(values)).cos()).sum().backward()
        assert {shape[2] for shape in products} == {24 if apart else batch.ids.shape[1]}
        grads = [p.grad for p in model.model.parameters() if p.grad is not None]
        found.append([values.detach(), *grads])
    share = 1e-5 if precision == "fp32" else 2e-2
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=share * float(want.abs().max()), rtol=1e-4)


def test_an_encoder_keeps_its_padding(tiny_bert: Path) -> None:
    model = ScalarModel.fresh(tiny_bert, 0, "fp32", CPU, pad_id=0, seed=0)
    assert not model.stack.unpads


def _stack(model: Any) -> tuple[Stack, Padded, Tensor]:
    torch.manual_seed(0)
    batch = pad(ROWS, 0, CPU)
    made = Stack(model.eval(), 0, "fp32")
    with torch.no_grad():
        alone = [made.hidden(pad([row], 0, CPU))[0] for row in ROWS]
    return made, batch, torch.cat(alone)


def test_blocks_that_see_a_window_get_rows_where_these_are_longer() -> None:
    config = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=4, pad_token_id=0,
    )  # fmt: skip
    made, batch, alone = _stack(MistralModel(config))
    assert not made.segments
    with torch.no_grad():
        torch.testing.assert_close(made.hidden(batch)[batch.mask], alone, atol=1e-5, rtol=1e-5)


def test_a_model_without_such_attention_keeps_its_padding() -> None:
    config = BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2)
    made, batch, alone = _stack(BloomModel(config))
    assert not made.unpads
    with torch.no_grad():
        torch.testing.assert_close(made.hidden(batch)[batch.mask], alone, atol=1e-5, rtol=1e-5)


def test_what_is_a_little_is_a_twentieth() -> None:
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 9] = False
    assert Padded(mask.long(), mask).waste == pytest.approx(stack.LITTLE)
