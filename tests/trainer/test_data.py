"""Snapshots to batches: splits, tokens as sampled, whole rankings, micro-batches."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.trainer.snapshots import (
    comparison_row,
    demonstration_row,
    output,
    prompt_row,
    write_all,
    write_snapshot,
)
from trainer.data import (
    Example,
    Ranking,
    batch_examples,
    batch_rankings,
    epoch_batches,
    load_demonstrations,
    load_prompts,
    load_rankings,
    micro_batches,
    output_ids,
    read_snapshot,
)
from trainer.errors import DataError, IntegrityError
from trainer.padded import pad_segments
from trainer.records import PromptRow
from trainer.text import Codec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec(tiny_llama: Path) -> Codec:
    return Codec.load(tiny_llama)


# ---- snapshots ------------------------------------------------------------------------------


def test_the_test_split_is_never_read(tmp_path: Path, codec: Codec) -> None:
    folders = write_all(tmp_path)
    for found in (
        load_prompts(folders["prompts"], codec, 200),
        load_demonstrations(folders["demonstrations"], codec, 200),
        load_rankings(folders["comparisons"], codec, 200),
    ):
        assert (len(found.train), len(found.valid)) == (12, 2)  # of 16, two are test
    rows = read_snapshot(folders["prompts"], "prompts", PromptRow)
    assert "test" not in {row.split for row in rows}


def test_a_snapshot_without_training_rows_is_refused(tmp_path: Path) -> None:
    folder = write_snapshot(tmp_path / "s", "prompts", [prompt_row(0, split="valid")])
    with pytest.raises(DataError, match="no prompts in the train split"):
        read_snapshot(folder, "prompts", PromptRow)


def test_a_snapshot_of_another_kind_or_with_other_content_is_refused(
    tmp_path: Path, codec: Codec
) -> None:
    folders = write_all(tmp_path)
    with pytest.raises(IntegrityError, match="is a snapshot of prompts; this needs comparisons"):
        load_rankings(folders["prompts"], codec, 200)
    rows = folders["prompts"] / "rows.jsonl"
    rows.write_text(rows.read_text().replace("p0", "p9"))
    with pytest.raises(IntegrityError, match="not what its manifest says"):
        load_prompts(folders["prompts"], codec, 200)


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path, codec: Codec) -> None:
    rows = [demonstration_row(0), demonstration_row(1, completion="word " * 200, split="train")]
    folder = write_snapshot(tmp_path / "s", "demonstrations", rows)
    found = load_demonstrations(folder, codec, 100)
    assert len(found.train) == 1
    assert found.notes == ("1 demonstrations were longer than 100 tokens and left out.",)
    with pytest.raises(DataError, match="None of the 2 demonstrations fits in 5 tokens"):
        load_demonstrations(folder, codec, 5)


def test_demonstrations_end_with_the_end_token(tmp_path: Path, codec: Codec) -> None:
    found = load_demonstrations(write_all(tmp_path)["demonstrations"], codec, 200)
    assert all(example.completion[-1] in codec.end_ids for example in found.train)
    assert not any(set(example.completion[:-1]) & codec.end_ids for example in found.train)


# ---- outputs --------------------------------------------------------------------------------


def test_tokens_of_an_output_are_used_as_they_were_sampled(codec: Codec) -> None:
    """The same text, cut into other tokens than the encoder would: no round trip."""
    end = min(codec.end_ids)
    letters = [codec.encode_completion(letter, ended=False)[0] for letter in "harbour"]
    assert letters != codec.encode_completion("harbour", ended=False)
    assert output_ids(output(0, "harbour", [*letters, end]), codec) == [*letters, end]
    assert output_ids(output(0, "harbour", letters, finished=False), codec) == letters


def test_tokens_of_another_tokenizer_are_encoded_again_from_the_text(codec: Codec) -> None:
    for foreign in ([5, 6, 7], [10**6], []):
        again = output_ids(output(0, "The harbour", foreign), codec)
        assert again == codec.encode_completion("The harbour", ended=True)


@pytest.mark.parametrize("finished", [True, False])
def test_the_end_token_is_there_exactly_if_it_was_sampled(codec: Codec, finished: bool) -> None:
    ids = output_ids(output(0, "The harbour", finished=finished), codec)
    assert (ids[-1] in codec.end_ids) is finished


def test_an_all_tied_ranking_is_left_out_and_told(tmp_path: Path, codec: Codec) -> None:
    row = comparison_row(2)
    tied = dataclasses.replace(row, id="tied", rank_groups=(tuple(o.id for o in row.outputs),))
    found = load_rankings(write_snapshot(tmp_path / "s", "comparisons", [row, tied]), codec, 200)
    assert len(found.train) == 1
    assert found.notes == ("1 rankings were all ties.",)


def test_answers_that_were_not_judged_are_in_no_pair(tmp_path: Path, codec: Codec) -> None:
    row = comparison_row(2)
    ids = [o.id for o in row.outputs]
    partial = dataclasses.replace(
        row,
        id="partial",
        rank_groups=((ids[2],), (ids[0],)),
        not_judged=tuple({*ids} - {ids[0], ids[2]}),
    )
    alone = dataclasses.replace(
        row, id="alone", rank_groups=((ids[1],),), not_judged=tuple({*ids} - {ids[1]})
    )
    folder = write_snapshot(tmp_path / "s", "comparisons", [partial, alone])
    found = load_rankings(folder, codec, 200, ties=True)
    (ranking,) = found.train
    assert ranking.ranks == [1, 0]
    assert [answer.completion for answer in ranking.answers] == [
        output_ids(row.outputs[i], codec) for i in (0, 2)
    ]
    assert found.notes == ("1 rankings judged fewer than two answers.",)


# ---- batches --------------------------------------------------------------------------------


def rankings_of_two_sizes() -> list[Ranking]:
    def example(n: int) -> Example:
        return Example([1, 2], list(range(10, 10 + n)))

    return [
        Ranking([example(1), example(2), example(3)], [0, 1, 1]),
        Ranking([example(4), example(0)], [1, 0]),
    ]


def test_a_ranking_is_one_item_with_one_sequence_per_answer() -> None:
    batch = batch_rankings(rankings_of_two_sizes(), 0, CPU, shared=False)
    assert batch.tokens.mask.sum(1).tolist() == [3, 4, 5, 6, 2]
    assert batch.mask.tolist() == [[True] * 3, [True, True, False]]
    assert batch.ranks.tolist() == [[0, 1, 1], [1, 0, 0]]
    scores = batch.scores(10.0 * torch.arange(5)[:, None] + torch.arange(6)[None])
    assert scores.tolist() == [[2.0, 13.0, 24.0], [35.0, 41.0, 0.0]]


def test_a_ranking_in_one_row_holds_its_prompt_once_and_each_answer_sees_its_own_part() -> None:
    batch = batch_rankings(rankings_of_two_sizes(), 0, CPU, shared=True)
    tokens = batch.tokens
    assert tokens.ids.tolist() == [
        [1, 2, 10, 10, 11, 10, 11, 12],
        [1, 2, 10, 11, 12, 13, 0, 0],
    ]
    assert tokens.positions[0].tolist() == [0, 1, 2, 2, 3, 2, 3, 4]
    assert tokens.attention_mask is not None
    sees = tokens.attention_mask[:, 0].long()
    assert sees[0, 4].tolist() == [1, 1, 0, 1, 1, 0, 0, 0]
    assert sees[0, 7].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]
    assert sees[1, 5].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    scores = batch.scores(10.0 * torch.arange(2)[:, None] + torch.arange(8)[None])
    assert scores.tolist() == [[2.0, 4.0, 7.0], [15.0, 11.0, 0.0]], (
        "an empty answer ends with its prompt"
    )


def test_rows_of_segments_without_a_common_part_start_over() -> None:
    tokens = pad_segments([[[], [5, 6], [7]], [[], [8]]], 0, CPU)
    assert tokens.positions.tolist()[0] == [0, 1, 0]
    assert tokens.attention_mask is not None
    assert tokens.attention_mask[0, 0].long().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert tokens.mask.tolist() == [[True] * 3, [True, False, False]]


def test_completions_are_marked_by_length_even_where_pad_and_end_are_one_id() -> None:
    batch = batch_examples([Example([7, 2], [5, 2]), Example([7], [2, 2, 2, 2])], 2, CPU)
    assert batch.completion.tolist() == [
        [False, False, True, True, False],
        [False, True, True, True, True],
    ]


def test_micro_batches_hold_every_item_once_and_keep_to_the_limit() -> None:
    widths = [9, 3, 50, 4, 8, 3, 9]
    groups = list(micro_batches(widths, 20))
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert [2] in groups  # over the limit by itself
    assert all(len(group) * max(widths[i] for i in group) <= 20 for group in groups if group != [2])
    rankings = list(micro_batches([5, 5, 5], 40, sequences=[4, 4, 4]))
    assert rankings == [[0, 1], [2]]


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    assert epoch_batches(10, 4, 1, 0) == epoch_batches(10, 4, 1, 0)
    assert epoch_batches(10, 4, 1, 0) != epoch_batches(10, 4, 1, 1)
    assert epoch_batches(10, 4, 1, 0) != epoch_batches(10, 4, 2, 0)
    assert sorted(i for batch in epoch_batches(10, 4, 1, 0) for i in batch) == list(range(10))
