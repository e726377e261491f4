"""Conversations of several turns: how they are encoded, and which tokens are learned."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.sft_cast import CPU, config, train
from tests.trainer.snapshots import demonstration_row, write_snapshot
from tests.trainer.tiny import build_tokenizer
from trainer import sft
from trainer.config import TrainOn
from trainer.data import Example, batch_examples, load_demonstrations
from trainer.models import LanguageModel
from trainer.records import Message, read_manifest
from trainer.text import Codec

TALK = (
    Message("user", "Hi"),
    Message("assistant", "Yes."),
    Message("user", "And now?"),
)
CHAT = [
    *("<|turn|>", "u", "ser", "\n", "H", "i", "<|end|>", "\n"),
    *("<|turn|>", "a", "ssistant", "\n", "Y", "es", ".", "<|end|>", "\n"),
    *("<|turn|>", "u", "ser", "\n", "A", "nd", " n", "o", "w", "?", "<|end|>", "\n"),
    *("<|turn|>", "a", "ssistant", "\n", "N", "o", ".", "<|end|>"),
]
PLAIN = [
    *("User", ":", "\n", "H", "i", "\n", "\n"),
    *("A", "ssistant", ":", "\n", "Y", "es", ".", "\n", "\n"),
    *("User", ":", "\n", "A", "nd", " n", "o", "w", "?", "\n", "\n"),
    *("A", "ssistant", ":", "\n", "N", "o", ".", "<|endoftext|>"),
]


def talk(tmp_path: Path, codec: Codec, train_on: TrainOn, **changes: Any) -> Example:
    row = demonstration_row(0, prompt=TALK, completion="No.", **changes)
    folder = write_snapshot(tmp_path / train_on, "demonstrations", [row])
    (example,) = load_demonstrations(folder, codec, 200, train_on=train_on).train
    return example


@pytest.mark.parametrize(
    ("arch", "tokens", "earlier"),
    [("llama", CHAT, range(12, 16)), ("gpt2", PLAIN, range(11, 14))],
    ids=["chat template", "plain template"],
)
def test_the_mask_of_a_conversation_by_hand(
    tmp_path: Path, arch: Any, tokens: list[str], earlier: range
) -> None:
    """With a chat template a turn's end token is learned; the plain one writes none in history."""
    codec = Codec.of(build_tokenizer(arch))
    last = range(len(tokens) - 4, len(tokens))
    for train_on, learned in (("response", set(last)), ("assistant", {*earlier, *last})):
        example = talk(tmp_path, codec, train_on)
        assert [codec.tokenizer.decode([i]) for i in example.ids] == tokens
        marks = batch_examples([example], codec.pad_id, CPU).completion[0].tolist()
        assert {i for i, mark in enumerate(marks) if mark} == learned
        assert sft.count_targets([example]) == len(learned)


def test_the_loss_on_every_turn_is_that_of_each_turn_learned_by_itself(
    tmp_path: Path, tiny_model: Path
) -> None:
    codec, model = Codec.load(tiny_model), LanguageModel.load(tiny_model, 0, "fp32", CPU)
    whole = talk(tmp_path, codec, "assistant")
    (start, stop), targets = whole.turns[0], sft.count_targets([whole])
    first = Example(whole.ids[:start], whole.ids[start:stop])
    last = Example(whole.prompt, whole.completion)
    assert first.prompt == codec.encode_prompt(TALK[:1])
    loss = sft.backward_loss(model, [whole], 0, 4096, targets)
    parts = sft.backward_loss(model, [first, last], 0, 4096, targets)
    assert loss == pytest.approx(parts, abs=1e-5)


def test_a_system_message_and_three_answers(tiny_model: Path) -> None:
    codec = Codec.load(tiny_model)
    messages = [Message("system", "Be brief.")]
    for i in range(3):
        messages += [Message("user", f"Count {i}."), Message("assistant", f"It is {i} today.")]
    messages.append(Message("user", "Thanks."))
    ids, turns = codec.encode_prompt(messages), codec.assistant_turns(messages)
    said = [codec.decode(ids[turn[0] : turn[1]]) for turn in turns if turn is not None]
    assert said == [f"It is {i} today." for i in range(3)]
    for place, turn in zip((2, 4, 6), turns, strict=True):
        assert turn is not None
        assert ids[: turn[0]] == codec.encode_prompt(messages[:place]), "as it would be asked"


def test_an_answer_that_spells_a_control_token_is_learned_as_text(tiny_llama: Path) -> None:
    codec = Codec.load(tiny_llama)
    hostile = [Message("user", "Hi"), Message("assistant", "Say <|end|> now."), TALK[2]]
    ids = codec.encode_prompt(hostile)
    (turn,) = codec.assistant_turns(hostile)
    assert turn is not None
    learned = ids[turn[0] : turn[1]]
    assert learned == codec.encode_completion("Say <|end|> now.")
    assert [i for i in learned if i in codec.end_ids] == learned[-1:]


def test_a_turn_that_answers_nobody_or_is_rewritten_as_history_is_not_learned(
    tmp_path: Path,
) -> None:
    tokenizer = build_tokenizer("llama")
    # The last user turn ends the history: what the assistant said before it is cut short.
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']",
        "(message['content'][:3] if message['role'] == 'assistant' else message['content'])",
    )
    codec = Codec.of(tokenizer)
    greeting = (Message("assistant", "Welcome."), Message("user", "Hi"))
    rewritten = (*greeting, Message("assistant", "Enough for us."), Message("user", "Why?"))
    assert codec.assistant_turns(rewritten) == [None, None]
    row = demonstration_row(0, prompt=rewritten)
    folder = write_snapshot(tmp_path / "s", "demonstrations", [row])
    data = load_demonstrations(folder, codec, 200, train_on="assistant")
    assert data.train[0].turns == ()
    assert data.notes[0].startswith("2 earlier assistant turns were not learned")
    assert load_demonstrations(folder, codec, 200).notes == ()


def test_a_run_can_learn_every_turn(tmp_path: Path, tiny_model: Path) -> None:
    rows = [demonstration_row(i, prompt=TALK, completion="No.") for i in range(8)]
    folder = write_snapshot(tmp_path / "d", "demonstrations", rows)
    losses = {}
    for train_on in ("response", "assistant"):
        out = tmp_path / train_on
        settings = config(out, tiny_model, folder, train_on=train_on, pack=True, epochs=1)
        losses[train_on] = train(settings)[0]["loss"]
        assert read_manifest(out).settings["train_on"] == train_on
    assert losses["response"] != losses["assistant"]
