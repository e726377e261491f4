"""Several simulated labelers at once: a thread each, and a chief who looks after the rest."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from labelapp.errors import BadInput
from labelapp.models import Project, Round
from labelapp.selectors.answers import answer_sets, tasks_waiting
from labelapp.selectors.progress import round_progress
from labelapp.services.demo import DATA
from labelapp.services.simulated import simulated_labelers_prepare
from labelapp.simulation.choice import (
    AGREEMENT,
    Chooser,
    scale_for_agreement,
    untied_differences,
)
from labelapp.simulation.client import LabelerClient, origin_of
from labelapp.simulation.labeler import DEMONSTRATION, PAIRWISE, RANKING, Labeler, Shared, Stopped
from labelapp.simulation.utilities import UTILITIES

DEMONSTRATIONS = DATA / "demonstrations.jsonl"
CALIBRATION_SETS = 32
"""The noise's scale is solved on the round's first so many answered tasks, hence always the same."""


@dataclass(frozen=True)
class Plan:
    """What a crew is asked to do."""

    url: str
    count: int = 2
    preference: str = "concise"
    demonstrations: Path = DEMONSTRATIONS
    max_demonstrations: int | None = None
    max_rankings: int | None = None
    until_empty: bool = False
    """Wait for answers that are still being drawn; else end when there is nothing to do."""
    seed: int = 0
    prefix: str = "simulated"
    agreement: float = AGREEMENT

    @property
    def usernames(self) -> list[str]:
        return [f"{self.prefix}-{self.preference}-{n}" for n in range(1, self.count + 1)]


@dataclass(frozen=True)
class Done:
    """What a crew has handed in so far."""

    demonstrations: int
    rankings: int
    votes: int
    skipped: int
    """Prompts without a demonstration in the file."""
    late: int
    """Handed in when the place was another's already."""
    scale: float | None
    """Of the noise; none while no answers were there."""
    demonstrations_at_most: int
    """Places that were free when the crew began, or the plan's limit."""
    rankings_at_most: int

    @property
    def sentence(self) -> str:
        """All of it in a line."""
        said = f"{self.demonstrations} demonstrations and {self.rankings} rankings handed in"
        if self.votes:
            said += f"; {self.votes} votes on pairs"
        if self.scale is not None:
            said += f" (noise of scale {self.scale:.3g})"
        if self.skipped:
            said += f"; {self.skipped} tasks skipped: no demonstration of their prompt in the file"
        if self.late:
            said += f"; {self.late} came too late"
        return f"{said}."


def demonstrations_read(path: Path) -> dict[str, str]:
    """Prompt text -> completion, from JSON Lines with ``prompt`` and ``completion``."""
    texts: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, completion = row["prompt"], row["completion"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInput(
                f"{path} line {number}: each line must be an object with prompt and completion."
            ) from None
        if not isinstance(prompt, str) or not isinstance(completion, str) or not completion.strip():
            raise BadInput(f"{path} line {number}: prompt and completion must be text.")
        texts[prompt.strip()] = completion
    return texts


def crew_run(
    *, project: Project, plan: Plan, tell: Callable[[Done], None] = lambda done: None
) -> Done:
    """Let a crew work on the project's open round; returns when it has ended.

    ``tell`` is called about once a second. Raises BadInput for a plan that cannot be followed, and
    whatever stopped one of the labelers.
    """
    round_ = _checked(project, plan)
    texts = demonstrations_read(plan.demonstrations)
    accounts = simulated_labelers_prepare(project=project, usernames=plan.usernames)
    shared = Shared({DEMONSTRATION: plan.max_demonstrations, RANKING: plan.max_rankings})
    places = {each.kind: each.wanted - each.submitted for each in round_progress(round_)}
    _look_after(shared, round_, plan)
    failures: list[BaseException] = []
    threads = [
        threading.Thread(
            target=_work,
            args=(plan, project.slug, name, password, shared, texts, failures),
            daemon=True,
        )
        for name, password in accounts.items()
    ]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            _sleep_unless_ended(threads)
            _look_after(shared, round_, plan)
            tell(_done(shared, plan, places))
    finally:
        shared.stop.set()
    if failures:
        raise failures[0]
    return _done(shared, plan, places)


def _checked(project: Project, plan: Plan) -> Round:
    origin_of(plan.url)
    if plan.preference not in UTILITIES:
        raise BadInput(
            f"There is no preference {plan.preference!r}; there are {', '.join(UTILITIES)}."
        )
    if plan.count < 1:
        raise BadInput("Ask for at least one labeler.")
    round_ = project.rounds.filter(state=Round.State.OPEN).first()
    if round_ is None:
        raise BadInput(f"No round is open in {project.slug}; open one first.")
    return round_


def _look_after(shared: Shared, round_: Round, plan: Plan) -> None:
    """Find the noise's scale as soon as it can be found, then say whether waiting is worth it."""
    waiting = tasks_waiting(round_) > 0
    if shared.chooser is None:
        sets = answer_sets(round_, limit=CALIBRATION_SETS)
        if sets and (len(sets) == CALIBRATION_SETS or not (waiting and plan.until_empty)):
            utility = UTILITIES[plan.preference]
            scale = scale_for_agreement(untied_differences(sets, utility), plan.agreement)
            shared.chooser = Chooser(utility, scale, plan.seed)
    if waiting and plan.until_empty and not shared.full(RANKING):
        shared.wait_for_more.set()
    else:
        shared.wait_for_more.clear()


def _work(
    plan: Plan,
    slug: str,
    username: str,
    password: str,
    shared: Shared,
    texts: Mapping[str, str],
    failures: list[BaseException],
) -> None:
    """The body of a labeler's thread; it never touches the database."""
    try:
        with LabelerClient(plan.url, username, password) as client:
            Labeler(client, slug, shared, texts, idle=shared.stop.wait).work()
    except Stopped:
        pass
    except Exception as error:
        failures.append(error)
        shared.stop.set()


def _sleep_unless_ended(threads: list[threading.Thread]) -> None:
    until = time.monotonic() + 1.0
    while time.monotonic() < until and any(thread.is_alive() for thread in threads):
        time.sleep(0.05)


def _done(shared: Shared, plan: Plan, places: Mapping[str, int]) -> Done:
    counts = shared.counts

    def at_most(kind: str, limit: int | None) -> int:
        free = places.get(kind, 0)
        return free if limit is None else min(free, limit)

    return Done(
        demonstrations=counts[DEMONSTRATION],
        rankings=counts[RANKING],
        votes=counts[PAIRWISE],
        skipped=counts["skipped"],
        late=counts["late"],
        scale=shared.chooser.scale if shared.chooser else None,
        demonstrations_at_most=at_most(DEMONSTRATION, plan.max_demonstrations),
        rankings_at_most=at_most(RANKING, plan.max_rankings),
    )
