"""Preference data of the learning scripts: prompts, folds, expanded pairs, and what is to be beaten."""

import gzip
import json
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.learning import probes
from bench.learning.pairs import (
    Ranked,
    expanded,
    folds,
    read_hh,
    read_open_assistant,
    shared_prompt,
    split,
    write_rankings,
)
from trainer.data import load_rankings
from trainer.losses import untied_pairs
from trainer.records import Message
from trainer.text import Codec

ASKED = "\n\nHuman: How far is it?\n\nAssistant: Where to?\n\nHuman: To the sea."


def ranked(*ranks: int, group: str = "g") -> Ranked:
    answers = tuple(f"answer {i} of {group}" for i in range(len(ranks)))
    return Ranked((Message("user", group),), answers, ranks, group)


# ---- HH -------------------------------------------------------------------------------------------


def test_transcripts_that_part_at_the_last_reply_share_all_before_it() -> None:
    pair = shared_prompt(f"{ASKED}\n\nAssistant: Ten miles.", f"{ASKED}\n\nAssistant:  Far. ")
    assert pair is not None
    assert [(m.role, m.content) for m in pair.prompt] == [
        ("user", "How far is it?"), ("assistant", "Where to?"), ("user", "To the sea."),
    ]  # fmt: skip
    assert (pair.answers, pair.ranks, pair.group) == (
        ("Ten miles.", "Far."),
        (0, 1),
        "How far is it?",
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "turns", "answers"),
    [
        # one goes on after the reply
        (f"{ASKED}\n\nAssistant: A.\n\nHuman: B?\n\nAssistant: C.", f"{ASKED}\n\nAssistant: D.", 3,
         ("A.\n\nHuman: B?\n\nAssistant: C.", "D.")),
        # they part at a human turn: the reply before it belongs to the answers
        ("\n\nHuman: Q\n\nAssistant: A\n\nHuman: X\n\nAssistant: B",
         "\n\nHuman: Q\n\nAssistant: A\n\nHuman: Y\n\nAssistant: C", 1,
         ("A\n\nHuman: X\n\nAssistant: B", "A\n\nHuman: Y\n\nAssistant: C")),
        # two replies in a row, and one transcript a part of the other
        ("\n\nHuman: Q\n\nAssistant: A\n\nAssistant: B", "\n\nHuman: Q\n\nAssistant: A", 1,
         ("A\n\nAssistant: B", "A")),
    ],
)  # fmt: skip
def test_what_parts_earlier_has_the_rest_of_the_transcript_as_its_answer(
    chosen: str, rejected: str, turns: int, answers: tuple[str, str]
) -> None:
    pair = shared_prompt(chosen, rejected)
    assert pair is not None
    assert (len(pair.prompt), pair.answers) == (turns, answers)
    assert pair.prompt[-1].role == "user"


def test_pairs_without_a_common_turn_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        (f"{ASKED}\n\nAssistant: A", f"{ASKED}\n\nAssistant: B"),
        (f"{ASKED}\n\nAssistant: A\n\nHuman: C\n\nAssistant: D", f"{ASKED}\n\nAssistant: B"),
        ("\n\nHuman: One\n\nAssistant: A", "\n\nHuman: Other\n\nAssistant: B"),
    ]
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for chosen, rejected in rows:
            out.write(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")
    found = read_hh(path)
    assert (len(found.pairs), found.apart, found.left_out) == (2, 1, 1)


# ---- folds ----------------------------------------------------------------------------------------


def test_no_group_is_on_both_sides_of_a_fold_and_every_ranking_is_held_out_once() -> None:
    draw = random.Random(3)
    rankings = [ranked(0, 1, group=f"g{draw.randint(0, 25)}") for _ in range(80)]
    dealt = folds(rankings, 5, seed=1)
    assert sorted(i for fold in dealt for i in fold) == list(range(80))
    assert all(10 <= len(fold) <= 22 for fold in dealt)
    for fold in dealt:
        train, valid = split(rankings, fold, None, 0)
        assert not {one.group for one in train} & {one.group for one in valid}
        assert len(train) + len(valid) == 80
    assert folds(rankings, 5, seed=1) == dealt != folds(rankings, 5, seed=2)


def test_a_smaller_share_is_part_of_a_larger_one_and_never_held_out() -> None:
    numbers = list(range(40))
    small, held_out = split(numbers, [1, 3, 5], 10, seed=0)
    large, _ = split(numbers, [1, 3, 5], 20, seed=0)
    assert held_out == [1, 3, 5]
    assert small == large[:10] and len(set(large)) == 20
    assert not set(large) & {1, 3, 5}


# ---- expanded pairs -------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [(0, 1), (2, 0, 1), (0, 0, 1), (1, 1, 1), (3, 0, 2, 0, 1)])
def test_expanded_pairs_are_the_untied_pairs_of_the_ranking(ranks: tuple[int, ...]) -> None:
    """Beside what the trainer's own loss takes as pairs."""
    ranking = ranked(*ranks)
    wanted = untied_pairs(torch.tensor([ranks]), torch.ones(1, len(ranks), dtype=torch.bool))
    pairs = {(ranking.answers[i], ranking.answers[j]) for _, i, j in wanted.nonzero().tolist()}
    found = expanded([ranking])
    assert {one.answers for one in found} == pairs
    assert len(found) == len(pairs) == ranking.pairs
    assert all(one.ranks == (0, 1) and one.prompt == ranking.prompt for one in found)


def test_what_is_written_is_what_the_trainer_reads(tiny_llama: Path, tmp_path: Path) -> None:
    codec = Codec.load(tiny_llama)
    rankings = [ranked(2, 0, 1), ranked(0, 0, 1, group="h")]
    found = load_rankings(write_rankings(tmp_path / "r", rankings, rankings[:1]), codec, 200)
    assert [one.ranks for one in found.train] == [[2, 0, 1], [0, 0, 1]]
    assert len(found.valid) == 1
    texts = [codec.decode(answer.completion) for answer in found.train[0].answers]
    assert tuple(texts) == rankings[0].answers


def test_rankings_of_a_conversation_are_found_at_every_turn(tmp_path: Path) -> None:
    def reply(text: str, rank: int | None, *after: dict[str, object]) -> dict[str, object]:
        return {"role": "assistant", "text": text, "rank": rank, "replies": list(after)}

    again = {"role": "prompter", "text": "And?", "replies": [reply("C", 1), reply("D", 0)]}
    asked = {
        "role": "prompter",
        "text": "Well?",
        "replies": [reply("A", 1, again), reply("B", 0), reply("unranked", None)],
    }
    path = tmp_path / "trees.jsonl"
    path.write_text(json.dumps({"message_tree_id": "t", "prompt": asked}) + "\n")
    first, second = read_open_assistant(path)
    assert (first.answers, first.ranks, first.group) == (("A", "B"), (1, 0), "t")
    assert [m.content for m in second.prompt] == ["Well?", "A", "And?"]
    assert [m.role for m in second.prompt] == ["user", "assistant", "user"]
    assert (second.answers, second.group) == (("C", "D"), "t")


# ---- what is to be beaten -------------------------------------------------------------------------


def pair(good: str, bad: str) -> Ranked:
    return Ranked((Message("user", "q"),), (good, bad), (0, 1), good)


def test_the_shorter_reply_wins() -> None:
    assert probes.shorter_wins([pair("a", "bb"), pair("bb", "a"), pair("a", "b")]) == [1, 0, 0.5]


def test_a_word_that_better_answers_have_is_learned() -> None:
    words = [f"{a}{b}" for a, b in combinations("bcdfgh", 2)]
    draw = random.Random(0)
    pairs = [
        pair(" ".join(["kindly", *draw.sample(words, 3)]), " ".join(draw.sample(words, 4)))
        for _ in range(60)
    ]
    assert sum(probes.bag_of_words(pairs[:40], pairs[40:])) == 20
    turned = [one._replace(answers=one.answers[::-1]) for one in pairs[40:]]
    assert sum(probes.bag_of_words(pairs[:40], turned)) == 0


def test_the_probe_is_of_differences_of_both_answers_features() -> None:
    draw = np.random.default_rng(0)
    common = draw.normal(size=(50, 1, 4)) * 10
    features = common + draw.normal(size=(50, 2, 4)) * 0.1
    features[:, 0, 2] += 1.0
    assert sum(probes.linear_probe(features, range(40), range(40, 50))) == 10
    assert sum(probes.linear_probe(features[:, ::-1], range(40), range(40, 50))) == 10
    mixed = np.concatenate([features[:40], features[40:, ::-1]])
    assert sum(probes.linear_probe(mixed, range(40), range(40, 50))) == 0


def test_last_states_are_those_of_each_answer_alone(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    rankings = [ranked(0, 1), ranked(0, 1, group="a longer one")]
    snapshot = write_rankings(tmp_path / "r", rankings, [])
    found = probes.last_states(tiny_llama, snapshot, 0, 200, "bf16")
    codec = Codec.load(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    assert found.shape == (2, 2, 48)
    for place, one in enumerate(load_rankings(snapshot, codec, 200).train):
        for number, answer in enumerate(one.answers):
            with torch.no_grad():
                want = model.model(torch.tensor([answer.ids])).last_hidden_state[0, -1]
            np.testing.assert_allclose(found[place, number], want, atol=0.15)
