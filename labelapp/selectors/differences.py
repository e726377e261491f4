"""Where two answers differ, word by word."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

# kana and Chinese characters, which no space divides into words: each is one
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]\s*|[^\s{_ALONE}]+\s*")


@dataclass(frozen=True)
class Piece:
    """A stretch of words: in both texts, in the first only, or in the second only."""

    kind: Literal["both", "first", "second"]
    text: str


def word_difference(first: str, second: str) -> Iterator[Piece]:
    """The pieces that lead from the first text to the second.

    White space between words does not count as a difference; it is kept as it stands.
    """
    one, two = _WORD.findall(first.strip()), _WORD.findall(second.strip())
    matcher = SequenceMatcher(None, [w.rstrip() for w in one], [w.rstrip() for w in two])
    for tag, from_one, to_one, from_two, to_two in matcher.get_opcodes():
        if tag == "equal":
            yield Piece("both", "".join(two[from_two:to_two]))
            continue
        if to_one > from_one:
            yield Piece("first", "".join(one[from_one:to_one]))
        if to_two > from_two:
            yield Piece("second", "".join(two[from_two:to_two]))
