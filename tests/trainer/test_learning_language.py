"""Perplexity and minimal pairs, beside the plain model one sentence at a time."""

import json
import math
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.learning import language
from bench.learning.language import Known, MinimalPair
from tests.trainer.tiny import TEXT
from trainer.text import Codec

SENTENCES = ["The dog slept near the wall.", "The boats came in, and they laughed.", "Read."]


def likelihood(folder: Path, ids: list[int]) -> float:
    """Log-probability of all tokens but the first, by the model's own logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logs[i, token]) for i, token in enumerate(ids[1:]))


def test_a_pair_is_right_when_its_good_sentence_is_likelier(tiny_model: Path) -> None:
    codec = Codec.load(tiny_model)
    ids = [[*codec.start_ids, *codec.encode_text(sentence)] for sentence in SENTENCES]
    sums = [likelihood(tiny_model, one) for one in ids]
    pairs = [MinimalPair(SENTENCES[i], SENTENCES[j]) for i in range(3) for j in range(3)]
    want = [[1.0 if a > b else 0.5 if a == b else 0.0 for b in sums] for a in sums]
    found = language.measure(tiny_model, text_file(tiny_model), {"p": pairs}, 16)
    assert found.right["p"] == [one for row in want for one in row]
    assert sorted(found.right["p"]) == [0.0] * 3 + [0.5] * 3 + [1.0] * 3


def text_file(beside: Path) -> Path:
    path = beside.with_name("language.txt")
    path.write_text(TEXT)
    return path


def test_the_loss_is_of_every_token_of_a_window_but_its_first(tiny_model: Path) -> None:
    codec = Codec.load(tiny_model)
    found = language.measure(tiny_model, text_file(tiny_model), {}, 16)
    stream = [*codec.start_ids, *codec.encode_text(TEXT)]
    assert len(found.nats) == len(stream) // 16
    for place in (0, len(found.nats) - 1):
        want = -likelihood(tiny_model, stream[16 * place : 16 * place + 16]) / 15
        assert found.nats[place] == pytest.approx(want, abs=1e-4)


def test_the_first_pairs_of_each_paradigm_are_read(tmp_path: Path) -> None:
    rows = [{"sentence_good": f"good {i}", "sentence_bad": f"bad {i}"} for i in range(3)]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("data/one.jsonl", "data/two.jsonl", "__MACOSX/data/._one.jsonl"):
            archive.writestr(name, "\n".join(map(json.dumps, rows)))
        archive.writestr("data/.DS_Store", "x")
    found = language.read_blimp(tmp_path / "b.zip", 2)
    pairs = [MinimalPair("good 0", "bad 0"), MinimalPair("good 1", "bad 1")]
    assert found == {"one": pairs, "two": pairs}


def test_changes_are_paired_item_by_item() -> None:
    before = Known([1.0, 2.0, 3.0], {"b": [1.0, 0.0], "a": [0.5, 1.0]})
    after = Known([1.5, 2.5, 3.5], {"a": [1.0, 0.0], "b": [1.0, 0.0]})
    found = language.change(before, after)
    assert found["nats"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 3}
    assert found["blimp"]["value"] == pytest.approx((0.5 - 1.0) / 4)
    said = language.summary(before)
    assert said["perplexity"]["value"] == pytest.approx(math.exp(2), abs=1e-4)
    assert said["perplexity"]["low"] < math.exp(2) < said["perplexity"]["high"]
    assert said["blimp"]["value"] == 2.5 / 4
