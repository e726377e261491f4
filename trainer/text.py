"""Tokens and text of one model folder: prompts in, completions out.

Where the tokenizer has a chat template it is used; else a plain template of labelled turns,
ended by a stop sequence as well as by the end token. What people and models write is hostile:
a control token spelled out in a message is encoded as ordinary text, never as the control token.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from trainer.errors import DataError, ModelError
from trainer.records import Message

ROLE_LABELS = {"system": "System", "user": "User", "assistant": "Assistant"}
STOP_SEQUENCE = "\nUser:"
_STOP_WINDOW = 16  # tokens looked back at for the stop sequence; it has 6 characters


@dataclass(frozen=True)
class Codec:
    """Tokens <-> text for one model.

    ``end_ids`` are the tokens that end a completion, ``end_id`` the one that training appends
    (none if the tokenizer has no end token); ``pad_id`` may be one of them, so everything masks
    by length, never by id. ``stop`` is the stop sequence of the plain template, none where there
    is a chat template. ``start_ids`` is what running text starts with. ``fingerprint`` differs
    when another tokenizer or template would give other ids.
    """

    tokenizer: Any
    end_ids: frozenset[int]
    end_id: int | None
    pad_id: int
    start_ids: tuple[int, ...]
    stop: str | None
    vocab_size: int
    fingerprint: str
    closing: dict[int, bool] = field(default_factory=dict, compare=False, repr=False)
    """By token: whether it may complete the stop sequence, as far as it was asked."""

    @classmethod
    def load(cls, folder: str | Path) -> "Codec":
        """Read the tokenizer of a model folder (or Hub id); ModelError if there is none, or if the
        model beside it has no embedding for some of its tokens.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder} has no tokenizer that can be loaded: {error}") from None
        _check_fit(tokenizer, folder)
        return cls.of(tokenizer, folder)

    @classmethod
    def of(cls, tokenizer: Any, folder: str | Path | None = None) -> "Codec":
        """The codec of a loaded tokenizer; ``folder`` adds the end tokens its model names."""
        turn_end = _turn_end(tokenizer) if tokenizer.chat_template else None
        eos = tokenizer.eos_token_id  # an encoder's texts end with its separator
        eos = tokenizer.sep_token_id if eos is None else eos
        end_id = turn_end if turn_end is not None else eos
        named = {end_id, eos, *_generation_ends(folder)} - {None}
        ids = sorted(named)
        pad = tokenizer.pad_token_id
        return cls(
            tokenizer=tokenizer,
            end_ids=frozenset(ids),
            end_id=end_id,
            pad_id=pad if pad is not None else ids[0] if ids else 0,
            start_ids=_start_ids(tokenizer),
            stop=None if tokenizer.chat_template else STOP_SEQUENCE,
            vocab_size=len(tokenizer),
            fingerprint=_fingerprint(tokenizer),
        )

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant's next completion begins."""
        if not messages:
            raise DataError("A prompt needs at least one message.")
        texts, special = _guarded([message.content for message in messages], self.tokenizer)
        turns = [{"role": m.role, "content": text} for m, text in zip(messages, texts, strict=True)]
        if self.stop is None:
            return self._encode(_render(self.tokenizer, turns), special)
        labelled = [f"{ROLE_LABELS[turn['role']]}:\n{turn['content']}\n\n" for turn in turns]
        text = "".join(labelled) + f"{ROLE_LABELS['assistant']}:\n"
        return [*affixes(self.tokenizer)[0], *self._encode(text, special)]

    def encode_completion(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of a completion, with the end token when it ``ended``."""
        guarded, special = _guarded([text], self.tokenizer)
        ids = self._encode(guarded[0], special)
        return [*ids, self.end_id] if ended and self.end_id is not None else ids

    def assistant_turns(self, messages: Sequence[Message]) -> list[tuple[int, int] | None]:
        """Where each assistant turn of a conversation stands in the ids of ``encode_prompt``.

        [start, stop) of tokens that are the very ones of ``encode_completion`` at that point, the
        end token among them where the template writes it. None for a turn that answers no user,
        or that the template leaves out or writes otherwise once it is history.
        """
        whole = self.encode_prompt(messages)
        return [
            self._turn(whole, messages[:place], message.content)
            for place, message in enumerate(messages)
            if message.role == "assistant"
        ]

    def _turn(
        self, whole: list[int], before: Sequence[Message], content: str
    ) -> tuple[int, int] | None:
        if not any(message.role == "user" for message in before):
            return None
        head, turn = self.encode_prompt(before), self.encode_completion(content)
        start = len(head)
        pairs = zip(turn, whole[start:], strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # Its last token may have grown together with what follows.
        needed = max(1, len(self.encode_completion(content, ended=False)) - 1)
        return (start, start + same) if whole[:start] == head and same >= needed else None

    def encode_text(self, text: str) -> list[int]:
        """Ids of running text, without any control token (the pretraining mix)."""
        guarded, special = _guarded([text], self.tokenizer)
        return self._encode(guarded[0], special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion: up to its first end token, trimmed at the stop sequence."""
        kept: list[int] = []
        for token in ids:
            if token in self.end_ids:
                break
            kept.append(int(token))
        text = self._decode(kept)
        if self.stop is not None:
            text = text.split(self.stop, 1)[0]
        return text.strip()

    def decode_text(self, ids: Sequence[int]) -> str:
        """Running text, without control tokens; nothing is trimmed but outer white space."""
        return self._decode(ids).strip()

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether a completion in the making has just reached the stop sequence, by its last token."""
        if self.stop is None or not ids or not self._closes(ids[-1], self.stop):
            return False
        return self.stop in self._decode(ids[-_STOP_WINDOW:])

    def _closes(self, token: int, stop: str) -> bool:
        """Whether a token's text has the stop sequence's last character; most have not."""
        if token not in self.closing:
            self.closing[token] = stop[-1] in self._decode([token])
        return self.closing[token]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _encode(self, text: str, special: dict[str, str]) -> list[int]:
        """Encode rendered text; the keys of ``special`` stand for control tokens spelled out."""
        ids: list[int] = []
        for piece, plain in _pieces(text, special):
            ids += self.tokenizer(
                piece,
                add_special_tokens=False,
                split_special_tokens=plain,
                return_attention_mask=False,
            )["input_ids"]
        return ids


def _guarded(texts: Sequence[str], tokenizer: Any) -> tuple[list[str], dict[str, str]]:
    """Texts with every control token replaced by a mark, and what each mark stands for."""
    control = {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    found = sorted((t for t in control if any(t in text for text in texts)), key=len, reverse=True)
    if not found:
        return list(texts), {}
    used = set("".join(texts))
    free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)
    special = dict(zip(free, found, strict=False))
    out = list(texts)
    for mark, token in special.items():
        out = [text.replace(token, mark) for text in out]
    return out, special


def _pieces(text: str, special: dict[str, str]) -> list[tuple[str, bool]]:
    """Cut at the marks: (text, False) or (the control token as plain text, True)."""
    pieces: list[tuple[str, bool]] = []
    start = 0
    for i, char in enumerate(text) if special else ():
        if char in special:
            pieces += [(text[start:i], False), (special[char], True)]
            start = i + 1
    pieces.append((text[start:], False))
    return [(piece, plain) for piece, plain in pieces if piece]


def _render(tokenizer: Any, turns: list[dict[str, str]], *, open_turn: bool = True) -> str:
    """The chat template's text; a template without a system role gets it in the first turn."""
    try:
        return str(
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_turn)
        )
    except TemplateError as error:
        if len(turns) > 1 and turns[0]["role"] == "system":
            first = turns[1] | {"content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
            return _render(tokenizer, [first, *turns[2:]], open_turn=open_turn)
        raise DataError(f"The model's chat template refuses this prompt: {error}") from None


def _turn_end(tokenizer: Any) -> int | None:
    """The control token with which the chat template ends an assistant's turn, if it does."""
    mark = "\U000f0000"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    tail = _render(tokenizer, turns, open_turn=False).rpartition(mark)[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return next((token for token in ids if token in special), None)


def _generation_ends(folder: str | Path | None) -> list[int]:
    """End tokens that the model's own generation settings name."""
    if folder is None:
        return []
    try:
        named = GenerationConfig.from_pretrained(str(folder)).eos_token_id
    except (OSError, ValueError):
        return []
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What this tokenizer puts before and after a text of its own accord, if anything.

    A BOS token before, or BERT's [CLS] and [SEP].
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start]), list(full[start + len(bare) :])
    return [], []


def _start_ids(tokenizer: Any) -> tuple[int, ...]:
    """What running text begins with: the end-of-text token where one is known, else BOS."""
    by_name = {str(t.content): i for i, t in tokenizer.added_tokens_decoder.items()}
    for token in (by_name.get("<|endoftext|>"), tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return (token,)
    return ()


def _fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        core = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        core = {"vocab": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    whole = json.dumps([core, tokenizer.chat_template, ends], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()


def _check_fit(tokenizer: Any, folder: str | Path) -> None:
    try:
        rows = AutoConfig.from_pretrained(str(folder)).get_text_config().vocab_size
    except (OSError, ValueError, KeyError, AttributeError):
        return  # whoever loads the model says what is wrong with it
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"{folder}: the tokenizer has ids up to {largest}, the model only {rows} embeddings: they"
            " do not belong together (with fresh weights, set vocab_size in config.json)."
        )
