"""``python -m trainer fill``: candidates for a mask or for the next token, with probabilities."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.trainer.tiny import build_tiny
from trainer.__main__ import main
from trainer.errors import ConfigError, DataError, ModelError
from trainer.fill import Candidate, Filled, fill, kind_of, table

TEXT = "The small [MASK] slept near the [MASK]."


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["fill", *args]) == 0
    return capsys.readouterr().out


def test_each_mask_gets_its_best_tokens_as_the_library_ranks_them(tiny_bert: Path) -> None:
    filled = fill(tiny_bert, TEXT, 5)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    batch = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()(**batch).logits[0]
    masks = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    assert len(masks) == len(filled.places) == 2
    for mask, place in zip(masks, filled.places, strict=True):
        best = logits[mask].softmax(-1).topk(5)
        assert [candidate.id for candidate in place] == best.indices.tolist()
        assert [c.probability for c in place] == pytest.approx(best.values.tolist(), abs=1e-6)
        assert [c.token for c in place] == [tokenizer.decode([c.id]) for c in place]


def test_a_causal_model_is_asked_for_the_next_token(tiny_model: Path) -> None:
    filled = fill(tiny_model, "A small dog slept near the", 400)
    ids = AutoTokenizer.from_pretrained(tiny_model)("A small dog slept near the")["input_ids"]
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
        wanted = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    (place,) = filled.places
    assert len(place) == len(wanted)  # never more candidates than tokens
    assert sum(candidate.probability for candidate in place) == pytest.approx(1, abs=1e-5)
    for candidate in place[:20]:
        assert candidate.probability == pytest.approx(float(wanted[candidate.id]), abs=1e-6)
    assert [c.probability for c in place] == sorted((c.probability for c in place), reverse=True)


def test_the_literal_mask_stands_for_whatever_the_tokenizers_is(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "bert", "bert")
    before = fill(folder, TEXT, 3).places
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("[MASK]", "<mask>"))
    assert AutoTokenizer.from_pretrained(folder).mask_token == "<mask>"
    assert fill(folder, TEXT, 3).places == before
    assert fill(folder, TEXT.replace("[MASK]", "<mask>"), 3).places == before


def test_the_table_is_for_people_and_json_for_programs(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = printed(capsys, "--model", str(tiny_bert), "--text", TEXT, "--top", "3", "--json")
    found: dict[str, Any] = json.loads(plain)
    assert (found["kind"], found["text"], found["model"]) == ("masked", TEXT, str(tiny_bert))
    assert [len(place) for place in found["places"]] == [3, 3]
    shown = printed(capsys, "--model", str(tiny_bert), "--text", TEXT, "--top", "3")
    assert "mask 1 of 2" in shown
    for place in found["places"]:
        for candidate in place:
            assert f"{candidate['probability']:.4%}" in shown
    assert len(printed(capsys, "--model", str(tiny_bert), "--text", "A [MASK].").splitlines()) == 13


def test_the_table_lines_tokens_up_and_shows_their_spaces() -> None:
    places = [[Candidate(" the", 7, 0.5), Candidate("\n", 3, 0.0625)]]
    assert table(Filled("causal", "near", places)).splitlines() == [
        "text: near",
        "",
        "next token",
        '   1  " the"   50.0000%  id 7',
        '   2  "\\n"      6.2500%  id 3',
    ]


def test_part_of_a_character_is_shown_as_the_vocabulary_spells_it(tiny_gpt2: Path) -> None:
    (place,) = fill(tiny_gpt2, "A small dog", 384).places
    assert not any("\ufffd" in candidate.token for candidate in place)
    assert all(candidate.token for candidate in place)


@pytest.mark.parametrize(
    ("arch", "text", "top", "error", "message"),
    [
        ("bert", "No gap here.", 5, ConfigError, r"has no mask: put \[MASK\] where a word"),
        ("bert", TEXT, 0, ConfigError, "top is 0; it must be above 0"),
        ("bert", "[MASK] " * 300, 5, DataError, "256 positions: shorten it"),
        ("gpt2", TEXT, 5, ConfigError, r"a causal model, which knows no mask: leave \[MASK\] out"),
        ("gpt2", "dog " * 300, 5, DataError, "256 positions: shorten it"),
    ],
)
def test_what_cannot_be_filled_is_told(
    request: pytest.FixtureRequest,
    arch: str,
    text: str,
    top: int,
    error: type[Exception],
    message: str,
) -> None:
    folder = request.getfixturevalue(f"tiny_{arch}")
    with pytest.raises(error, match=message):
        fill(folder, text, top)


def test_an_empty_text_is_what_every_text_starts_from(tiny_gpt2: Path) -> None:
    (place,) = fill(tiny_gpt2, "", 3).places
    assert len(place) == 3


def test_only_language_models_are_asked(
    tmp_path: Path, tiny_llama: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (kind_of(tiny_llama), kind_of(tiny_bert)) == ("causal", "masked")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1)
    model.save_pretrained(tmp_path / "scorer")
    with pytest.raises(ModelError, match="holds a BertForSequenceClassification"):
        kind_of(tmp_path / "scorer")
    (tmp_path / "empty").mkdir()
    code = main(["fill", "--model", str(tmp_path / "empty"), "--text", "x"])
    assert code == ModelError.exit_code
    assert "is no model folder" in capsys.readouterr().err
