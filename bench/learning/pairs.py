"""Public preference data as rankings: HH pairs, Open-Assistant's K-way rankings, folds by prompt."""

import gzip
import json
import random
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench.data import write_snapshot
from trainer.records import ComparisonRow, Message, Output, Sampling, Split

Item = TypeVar("Item")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES: dict[str, Any] = {"Human": "user", "Assistant": "assistant"}


class Ranked(NamedTuple):
    """A conversation and K answers to it."""

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    ranks: tuple[int, ...]  # 0 is best, equal is a tie
    group: str  # rankings of one group go into one fold

    @property
    def pairs(self) -> int:
        """Untied ones."""
        return sum(a != b for a, b in combinations(self.ranks, 2))


# ---- HH -------------------------------------------------------------------------------------------


class HH(NamedTuple):
    """Pairs of transcripts as rankings of two."""

    pairs: list[Ranked]
    apart: int  # pairs whose transcripts part before the last reply
    left_out: int  # pairs that share no human turn


def read_hh(path: Path) -> HH:
    """``chosen`` and ``rejected`` of each line; the group is the human's opening turn.

    What the two share, up to a human turn, is the prompt. Where they part before the last reply
    all that follows, later turns as they are written, is the answer.
    """
    pairs, apart, left_out = [], 0, 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            pair = shared_prompt(row["chosen"], row["rejected"])
            if pair is None:
                left_out += 1
                continue
            apart += any(_TURN.search(answer) for answer in pair.answers)
            pairs.append(pair)
    return HH(pairs, apart, left_out)


def shared_prompt(chosen: str, rejected: str) -> Ranked | None:
    """A pair of transcripts, the better one first; none if they have no human turn in common."""
    turns = [_turns(text) for text in (chosen, rejected)]
    common = 0
    for one, other in zip(*turns, strict=False):
        if one != other:
            break
        common += 1
    while common and not _asks(turns, common):
        common -= 1
    if common == 0:
        return None
    prompt = tuple(Message(_ROLES[who], said.strip()) for who, said in turns[0][:common])
    answers = tuple(_rest(some[common:]) for some in turns)
    return Ranked(prompt, answers, (0, 1), prompt[0].content)


def _turns(transcript: str) -> list[tuple[str, str]]:
    parts = _TURN.split(transcript)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _asks(turns: Sequence[Sequence[tuple[str, str]]], common: int) -> bool:
    """Whether the common turns end with the human's and an assistant follows in both."""
    follows = all(len(some) > common and some[common][0] == "Assistant" for some in turns)
    return follows and turns[0][common - 1][0] == "Human"


def _rest(turns: Sequence[tuple[str, str]]) -> str:
    """The first reply, and later turns as they are written."""
    later = "".join(f"\n\n{who}:{said}" for who, said in turns[1:])
    return (turns[0][1] + later).strip()


# ---- Open-Assistant -------------------------------------------------------------------------------


def read_open_assistant(path: Path) -> list[Ranked]:
    """The rankings of 2 to 9 replies to one message; the group is the conversation tree."""
    found: list[Ranked] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        tree = json.loads(line)
        _walk(tree["prompt"], (), tree["message_tree_id"], found)
    return found


def _walk(node: dict[str, Any], before: tuple[Message, ...], tree: str, into: list[Ranked]) -> None:
    asks = node["role"] == "prompter"
    path = (*before, Message("user" if asks else "assistant", node["text"]))
    ranked = [reply for reply in node.get("replies", ()) if reply.get("rank") is not None]
    if asks and 2 <= len(ranked) <= 9:
        texts = tuple(reply["text"] for reply in ranked)
        into.append(Ranked(path, texts, tuple(reply["rank"] for reply in ranked), tree))
    for reply in node.get("replies", ()):
        _walk(reply, path, tree, into)


def expanded(rankings: Iterable[Ranked]) -> list[Ranked]:
    """Every untied pair of every ranking as a ranking of its own, the better answer first."""
    found = []
    for ranking in rankings:
        placed = sorted(zip(ranking.ranks, ranking.answers, strict=True), key=lambda one: one[0])
        for (rank, better), (other, worse) in combinations(placed, 2):
            if rank < other:
                found.append(ranking._replace(answers=(better, worse), ranks=(0, 1)))
    return found


# ---- folds and snapshots --------------------------------------------------------------------------


def folds(rankings: Sequence[Ranked], count: int, seed: int) -> list[list[int]]:
    """Indexes of the rankings held out in each fold; those of a group are in one fold."""
    groups: dict[str, list[int]] = {}
    for index, ranking in enumerate(rankings):
        groups.setdefault(ranking.group, []).append(index)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    found: list[list[int]] = [[] for _ in range(count)]
    for name in sorted(names, key=lambda name: -len(groups[name])):
        min(found, key=len).extend(groups[name])
    return [sorted(fold) for fold in found]


def split(
    rankings: Sequence[Item], held_out: Sequence[int], size: int | None, seed: int
) -> tuple[list[Item], list[Item]]:
    """What is learned from, ``size`` of it drawn by seed (none, all), and what is held out.

    A smaller draw is part of a larger one.
    """
    out = set(held_out)
    rest = [index for index in range(len(rankings)) if index not in out]
    random.Random(seed).shuffle(rest)
    return [rankings[i] for i in rest[:size]], [rankings[i] for i in sorted(out)]


def write_rankings(folder: Path, train: Sequence[Ranked], valid: Sequence[Ranked]) -> Path:
    """A snapshot of comparisons."""
    rows = [_row(i, ranked, "train") for i, ranked in enumerate(train)]
    rows += [_row(len(rows) + i, ranked, "valid") for i, ranked in enumerate(valid)]
    return write_snapshot(folder, "comparisons", rows)


def _row(number: int, ranked: Ranked, split: Split) -> ComparisonRow:
    outputs = tuple(
        Output(f"o{i}", text, (), True, "public", Sampling(1.0, 0, i, 1))
        for i, text in enumerate(ranked.answers)
    )
    placed = tuple(
        tuple(f"o{i}" for i, other in enumerate(ranked.ranks) if other == rank)
        for rank in sorted(set(ranked.ranks))
    )
    return ComparisonRow(
        id=f"c{number}",
        task_id=f"t{number}",
        prompt_id=f"p{number}",
        prompt=ranked.prompt,
        outputs=outputs,
        shown_order=tuple(output.id for output in outputs),
        rank_groups=placed,
        ratings=None,
        flags=None,
        strength=None,
        confidence=None,
        labeler="public",
        labeler_group=None,
        active_ms=None,
        round=1,
        instructions_version=None,
        split=split,
        kind="user",
        use_case="other",
        surplus=False,
        simulated=False,
    )
