"""One simulated labeler at work: asks for a task, answers it, hands it in."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labelapp.simulation.choice import Chooser
from labelapp.simulation.client import LabelerClient, Refused

DEMONSTRATION = "demonstration"
RANKING = "ranking"
PAIRWISE = "pairwise"
KINDS = (DEMONSTRATION, RANKING, PAIRWISE)
NO_TEXT = "No demonstration of this prompt in the file."
GONE = 409
"""Status of work that was handed in before, or whose place was taken."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds before asking again while answers are still being drawn; growing, to leave the CPU to them."""
_NAMESPACE = uuid.UUID("5ca1ab1e-0000-4000-8000-000000000000")


class Stopped(Exception):
    """The crew was stopped while a labeler waited."""


class Shared:
    """What the labelers of a crew share: counts, limits, and what the crew's chief finds out."""

    def __init__(self, limits: Mapping[str, int | None]) -> None:
        self.counts: Counter[str] = Counter()
        self.stop = threading.Event()
        self.wait_for_more = threading.Event()
        """Set while tasks are still waiting for answers: nothing to do is not the end."""
        self.chooser: Chooser | None = None
        """How to rank and vote; none until the noise's scale is known, and none is taken before."""
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        """One more of ``name``."""
        with self._lock:
            self.counts[name] += 1

    def reserve(self, kind: str) -> bool:
        """A place under the limit of this kind; give it back with ``release``."""
        with self._lock:
            if self.full(kind):
                return False
            self._taken[kind] += 1
            return True

    def full(self, kind: str) -> bool:
        """Whether the limit of this kind is reached."""
        limit = self._limits.get(kind)
        return limit is not None and self._taken[kind] >= limit

    def release(self, kind: str) -> None:
        """The place was not used."""
        with self._lock:
            self._taken[kind] -= 1


@dataclass
class Labeler:
    """Takes turns between the kinds of task until there is nothing left to do."""

    client: LabelerClient
    slug: str
    shared: Shared
    texts: Mapping[str, str]
    """Prompt text -> demonstration."""
    idle: Callable[[float], Any] = time.sleep
    _turn: int = field(default=0, init=False)

    def work(self) -> None:
        """Sign in and work until the crew is stopped or the round has nothing more."""
        self.client.sign_in()
        pause = SHORTEST_PAUSE
        while not self.shared.stop.is_set():
            more_to_come = self.shared.wait_for_more.is_set()  # as it stood before we asked
            if self._one():
                pause = SHORTEST_PAUSE
            elif more_to_come:
                self.idle(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def _one(self) -> bool:
        """Do one task of any kind; False when there is none."""
        for offset in range(len(KINDS)):
            kind = KINDS[(self._turn + offset) % len(KINDS)]
            if kind != DEMONSTRATION and self.shared.chooser is None:
                continue
            if self._one_of(kind):
                self._turn += offset + 1
                return True
        return False

    def _one_of(self, kind: str) -> bool:
        if not self.shared.reserve(kind):
            return False
        assignment = self.client.post(f"/api/p/{self.slug}/next/", {"kind": kind})["assignment"]
        if assignment is None:
            self.shared.release(kind)
            return False
        if assignment["kind"] != kind:  # left in hand by an earlier start
            self.shared.release(kind)
        handed_in = self._hand_in(assignment)
        if assignment["kind"] == kind and not handed_in:
            self.shared.release(kind)
        return True

    def _hand_in(self, assignment: dict[str, Any]) -> bool:
        """Answer and submit; False where it was skipped or came too late."""
        started = time.monotonic()
        path = f"/api/p/{self.slug}/assignments/{assignment['id']}"
        answer = self._answer(assignment)
        try:
            if answer is None:
                self.client.post(f"{path}/skip/", {"reason": NO_TEXT})
                self.shared.count("skipped")
                return False
            once = f"{assignment['id']}:own" if _own_first(assignment) else assignment["id"]
            answer["client_id"] = str(uuid.uuid5(_NAMESPACE, once))
            answer["active_ms"] = int((time.monotonic() - started) * 1000)
            state = self.client.post(f"{path}/submit/", answer)["state"]
        except Refused as error:
            if error.status != GONE:
                raise
            self.shared.count("late")
            return False
        if state == "written":  # its own answer; those to rank are shown now
            shown = self.client.post(f"/api/p/{self.slug}/next/", {})["assignment"]
            return shown is not None and self._hand_in(shown)
        self.shared.count(assignment["kind"] if state == "submitted" else "late")
        return True

    def _answer(self, assignment: dict[str, Any]) -> dict[str, Any] | None:
        if assignment["kind"] == DEMONSTRATION or _own_first(assignment):
            text = self.texts.get(assignment["prompt_text"].strip())
            return None if text is None else {"text": text}
        while self.shared.chooser is None:  # one left in hand by an earlier start
            if self.shared.stop.is_set():
                raise Stopped
            self.idle(0.2)
        letters = [answer["letter"] for answer in assignment["answers"]]
        groups = self.shared.chooser.groups(
            labeler=self.client.username,
            assignment=assignment["id"],
            texts=[answer["text"] for answer in assignment["answers"]],
        )
        if assignment["kind"] == PAIRWISE:
            return {"choice": "tie" if len(groups) == 1 else ("left", "right")[groups[0][0]]}
        ranked = [[letters[i] for i in group] for group in groups]
        demanded = assignment.get("ratings_required", False)
        return {"groups": ranked} | ({"ratings": ratings_of(ranked)} if demanded else {})


def _own_first(assignment: Mapping[str, Any]) -> bool:
    """Whether the answers to rank are held back until one of its own is written."""
    return bool(assignment["kind"] == RANKING and assignment.get("step") == "write")


def ratings_of(groups: Sequence[Sequence[str]]) -> dict[str, int]:
    """Ratings, 1 to 7, that say no more than the ranking: the best 7, the worst 1, evenly between."""
    last = max(len(groups) - 1, 1)
    return {
        letter: round(7 - 6 * place / last)
        for place, group in enumerate(groups)
        for letter in group
    }
