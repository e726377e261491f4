"""The demo project's prompts and demonstrations: hand-written files that the first start loads."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).resolve().parents[2] / "labelapp" / "demo"

# InstructGPT (arXiv 2203.02155), table 1: share of each use case in percent.
PAPER_SHARES = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
}
KIND_SHARES = {"plain": 60.0, "few_shot": 15.0, "user": 25.0}
SPLIT_SHARES = {"train": 70.0, "valid": 10.0, "test": 20.0}
PASSAGE_USE_CASES = {"summarization", "closed_qa", "extract"}
COMMON_FIELDS = {"kind", "use_case", "author", "text"}
KIND_FIELDS: dict[str, set[str]] = {
    "plain": set(),
    "few_shot": {"instruction", "pairs", "query"},
    "user": {"stated_use_case"},
}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


PROMPTS = rows("prompts.jsonl")
DEMONSTRATIONS = rows("demonstrations.jsonl")


def split_by_hand(author: str) -> str:
    """The split of an author, written out here a second time on purpose."""
    digit = int(hashlib.sha256(author.encode()).hexdigest(), 16) % 10
    return "train" if digit <= 6 else "valid" if digit == 7 else "test"


def words(text: str) -> int:
    return len(text.split())


def shares(values: list[str]) -> dict[str, float]:
    """Percent of each value among all of them."""
    return {value: 100 * count / len(values) for value, count in Counter(values).items()}


def test_there_are_at_least_330_prompts_and_240_demonstrations() -> None:
    assert len(PROMPTS) >= 330
    assert len(DEMONSTRATIONS) >= 240


def test_use_cases_are_the_ten_of_the_paper_in_about_its_shares() -> None:
    found = shares([prompt["use_case"] for prompt in PROMPTS])

    assert found.keys() == PAPER_SHARES.keys()
    for use_case, share in PAPER_SHARES.items():
        assert found[use_case] == pytest.approx(share, abs=2.0), use_case


def test_every_use_case_has_eight_prompts_and_two_kinds_or_more() -> None:
    for use_case in PAPER_SHARES:
        kinds = [prompt["kind"] for prompt in PROMPTS if prompt["use_case"] == use_case]
        assert len(kinds) >= 8, use_case
        assert len(set(kinds)) >= 2, use_case


def test_kinds_are_mixed_as_planned() -> None:
    found = shares([prompt["kind"] for prompt in PROMPTS])

    assert found.keys() == KIND_SHARES.keys()
    for kind, share in KIND_SHARES.items():
        assert found[kind] == pytest.approx(share, abs=3.0), kind


def test_every_prompt_has_exactly_the_fields_of_its_kind() -> None:
    for prompt in PROMPTS:
        assert prompt.keys() == COMMON_FIELDS | KIND_FIELDS[prompt["kind"]], prompt["text"]
        assert all(prompt.values()), prompt["text"]


def test_a_few_shot_text_shows_the_pairs_in_order_and_ends_where_the_answer_belongs() -> None:
    for prompt in (row for row in PROMPTS if row["kind"] == "few_shot"):
        pairs = prompt["pairs"]
        assert 2 <= len(pairs) <= 3, prompt["text"]
        parts = [prompt["instruction"]]
        for pair in pairs:
            assert pair.keys() == {"query", "response"}
            parts += [pair["query"], pair["response"]]
        position = 0
        for part in [*parts, prompt["query"]]:
            position = prompt["text"].index(part, position) + len(part)
        label = prompt["text"].rsplit("\n", 1)[-1]
        assert prompt["text"][position:] == f"\n{label}"
        assert label.endswith(":")
        assert prompt["text"].count(f"\n{label} ") == len(pairs)


def test_one_customer_states_one_use_case() -> None:
    stated: dict[str, set[str]] = {}
    for prompt in PROMPTS:
        if prompt["kind"] == "user":
            stated.setdefault(prompt["author"], set()).add(prompt["stated_use_case"])

    assert all(len(uses) == 1 for uses in stated.values())
    all_uses = [use for uses in stated.values() for use in uses]
    assert len(set(all_uses)) == len(all_uses)
    assert all(use.endswith(".") for use in all_uses)


def test_there_are_at_least_66_authors_with_three_to_seven_prompts_each() -> None:
    counts = Counter(prompt["author"] for prompt in PROMPTS)

    assert len(counts) >= 66
    assert set(counts.values()) <= set(range(3, 8))


def test_the_split_by_author_is_about_70_10_20_percent_of_the_prompts() -> None:
    splits = [split_by_hand(prompt["author"]) for prompt in PROMPTS]

    found = shares(splits)
    for split, share in SPLIT_SHARES.items():
        assert found[split] == pytest.approx(share, abs=3.0), split
    assert splits.count("test") >= 66


def test_no_two_prompts_begin_alike() -> None:
    beginnings = Counter(prompt["text"][:40].casefold() for prompt in PROMPTS)

    assert [beginning for beginning, count in beginnings.items() if count > 1] == []


def test_prompts_are_short_enough_for_a_small_model_on_a_cpu() -> None:
    for prompt in PROMPTS:
        length = words(prompt["text"])
        assert 8 <= length <= 120, prompt["text"]
        if prompt["kind"] == "few_shot":
            assert length <= 95, prompt["text"]
        elif prompt["use_case"] not in PASSAGE_USE_CASES:
            assert length <= 48, prompt["text"]


def test_texts_carry_no_stray_space_and_no_control_character() -> None:
    texts = [prompt["text"] for prompt in PROMPTS]
    texts += [demonstration["completion"] for demonstration in DEMONSTRATIONS]

    for text in texts:
        assert text == text.strip()
        assert "  " not in text
        assert all(character == "\n" or character.isprintable() for character in text), text


def test_demonstrations_answer_prompts_of_train_and_valid_once_each() -> None:
    split_of_text = {prompt["text"]: split_by_hand(prompt["author"]) for prompt in PROMPTS}
    answered = [demonstration["prompt"] for demonstration in DEMONSTRATIONS]

    assert {split_of_text[text] for text in answered} == {"train", "valid"}
    assert len(set(answered)) == len(answered)
    assert all(row.keys() == {"prompt", "completion"} for row in DEMONSTRATIONS)


def test_demonstrations_spread_from_20_to_75_words_around_45() -> None:
    lengths = [words(demonstration["completion"]) for demonstration in DEMONSTRATIONS]

    assert min(lengths) >= 20
    assert max(lengths) <= 75
    assert sum(lengths) / len(lengths) == pytest.approx(45, abs=3)
    assert sum(length <= 34 for length in lengths) >= 40
    assert sum(35 <= length < 60 for length in lengths) >= 120
    assert sum(length >= 60 for length in lengths) >= 20


def test_every_demonstration_is_its_own_and_ends_a_sentence() -> None:
    completions = [demonstration["completion"] for demonstration in DEMONSTRATIONS]

    assert len(set(completions)) == len(completions)
    for completion in completions:
        assert completion.rstrip('"”)')[-1] in ".!?", completion


def test_the_instructions_name_the_three_aims_in_order_and_welcome_ties() -> None:
    instructions = (DEMO / "instructions.md").read_text(encoding="utf-8")

    aims = [instructions.index(f"**{aim}.**") for aim in ("Helpful", "Truthful", "Harmless")]
    assert aims == sorted(aims)
    assert "ties are welcome" in instructions
    assert 300 <= words(instructions) <= 420
