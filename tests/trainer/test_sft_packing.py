"""Several examples in one row: the same loss and gradient as in rows of their own."""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from tests.trainer.sft_cast import CPU, config, gradients, train
from tests.trainer.snapshots import demonstration_row, write_snapshot
from tests.trainer.tiny import build_tokenizer
from trainer import sft
from trainer.data import Example
from trainer.models import LanguageModel, states_before
from trainer.packing import batch_packed, example_batches, first_fit
from trainer.records import read_manifest

EXAMPLES = [
    Example([5, 9, 7], [8, 3]),
    Example([5], [4, 6, 1, 2, 30, 31, 32]),
    Example([40, 41, 42, 43, 44, 45], [46]),
    Example([50, 51, 52, 53], [54, 55], ((1, 3),)),
    Example([], [60, 61, 62]),
    Example([70, 71], list(range(72, 90))),
]
TARGETS = 2 + 7 + 1 + (2 + 2) + 2 + 18  # the first token of the one without a prompt is no target


def test_items_go_the_longest_first_into_the_first_row_with_room() -> None:
    assert first_fit([5, 3, 7, 2, 4], 8) == [[2], [0, 1], [4, 3]]
    assert first_fit([3, 9, 5], 8) == [[1], [2, 0]], "what is too long has a row of its own"
    assert first_fit([4, 4, 4, 4], 8) == [[0, 1], [2, 3]]
    assert first_fit([], 8) == []


def test_every_item_is_packed_once_and_no_row_is_over_the_capacity() -> None:
    lengths = [1 + (7 * i * i + 3 * i) % 29 for i in range(200)]
    rows = first_fit(lengths, 30)
    assert sorted(itertools.chain(*rows)) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 30 for row in rows)
    assert len(rows) * 30 < 1.05 * sum(lengths), "little room is left"


def test_a_packed_row_by_hand() -> None:
    rows = [[Example([5, 6], [7]), Example([8], [9, 2])], [Example([4], [2])]]
    batch = batch_packed(rows, 2, CPU)
    assert batch.tokens.ids.tolist() == [[5, 6, 7, 8, 9, 2], [4, 2, 2, 2, 2, 2]]
    assert batch.tokens.mask.sum(1).tolist() == [6, 2]
    assert batch.tokens.positions[0].tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.completion.long().tolist() == [[0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0]]
    assert batch.tokens.attention_mask is not None
    sees = batch.tokens.attention_mask[0, 0].long().tolist()
    assert sees[3] == [0, 0, 0, 1, 0, 0]
    assert sees[5] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("frozen", [0, 1])
def test_packed_examples_give_the_loss_and_gradient_of_unpacked_ones(
    tiny_model: Path, frozen: int
) -> None:
    model = LanguageModel.load(tiny_model, frozen, "fp32", CPU)
    assert sft.count_targets(EXAMPLES) == TARGETS
    plain = sft.backward_loss(model, EXAMPLES, 0, 4096, TARGETS)
    apart = gradients(model)
    rows = next(example_batches(EXAMPLES, 0, 4096, CPU, pack_tokens=25)).tokens.ids.shape[0]
    assert rows == 2, "six examples of 49 tokens"
    for capacity, micro in ((25, 4096), (25, 1), (4096, 4096)):
        packed = sft.backward_loss(model, EXAMPLES, 0, micro, TARGETS, pack_tokens=capacity)
        together = gradients(model)
        assert packed == pytest.approx(plain, abs=1e-5)
        assert together.keys() == apart.keys()
        for name, gradient in apart.items():
            torch.testing.assert_close(together[name], gradient, atol=1e-5, rtol=1e-4)


def test_what_stands_before_an_example_in_its_row_changes_nothing(tiny_model: Path) -> None:
    model = LanguageModel.load(tiny_model, 0, "fp32", CPU)
    second = Example([5], [4, 6, 1])
    with torch.no_grad():
        found = [
            model.logprobs(*batch_packed([[first, second]], 0, CPU))[-3:]
            for first in (Example([9, 8], [7]), Example([200, 3], [11]))
        ]
        alone = model.logprobs(*batch_packed([[second]], 0, CPU))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    torch.testing.assert_close(found[0], alone, atol=1e-5, rtol=0)


def test_the_first_token_of_an_example_is_never_predicted_from_the_example_before() -> None:
    batch = batch_packed([[Example([5, 6], [7]), Example([], [8, 9]), Example([], [3])]], 0, CPU)
    assert batch.completion.long().tolist() == [[0, 0, 1, 0, 1, 0]]
    assert states_before(*batch).long().tolist() == [[0, 1, 0, 1, 0, 0]]


@pytest.mark.slow
def test_a_packed_run_ends_like_an_unpacked_one(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [demonstration_row(i) for i in range(16)]
    folder = write_snapshot(tmp_path / "d", "demonstrations", rows)
    plain = train(config(tmp_path / "plain", tiny_llama, folder))
    packed = train(config(tmp_path / "packed", tiny_llama, folder, pack=True, pack_tokens=150))
    for name in ("loss", "valid_loss", "gradient_norm"):
        found = [line[name] for line in packed if name in line]
        assert found == pytest.approx([line[name] for line in plain if name in line], rel=1e-3)
    figures = [read_manifest(tmp_path / name).metrics["tokens"] for name in ("plain", "packed")]
    assert figures[0] == figures[1], "tokens are real ones"


def test_an_architecture_that_cannot_keep_rows_apart_trains_unpacked_and_says_so(
    tmp_path: Path,
) -> None:
    """Bloom makes its position bias from a mask of two dimensions."""
    tokenizer = build_tokenizer("gpt2")
    bloom = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=2, n_head=2)
    BloomForCausalLM(bloom).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    rows = [demonstration_row(i) for i in range(8)]
    folder = write_snapshot(tmp_path / "d", "demonstrations", rows)
    settings = config(tmp_path / "run", tmp_path / "bloom", folder, pack=True, epochs=1)
    train(settings)
    assert sft.UNPACKABLE in read_manifest(tmp_path / "run").notes
