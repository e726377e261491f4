"""A whole round with simulated labelers, against a running stack; killed and run again, it goes on.

What was done is read from the rows, so nothing else has to be kept: the round belongs to an
account of its own (``CHIEF``), and stays open until its figures are known.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
from django.utils import timezone

from labelapp.errors import StateConflict
from labelapp.models import ModelVersion, Project, Round, Run, Training, User
from labelapp.selectors.registry import StageView, stage_view
from labelapp.services.rounds import prompts_for_labeling, round_close, round_open
from labelapp.services.runs import (
    LIVE,
    evaluation_sampling_queue,
    run_cancel,
    run_retry,
    sampling_queue,
)
from labelapp.services.simulated import simulated_chief_get
from labelapp.services.trainings import training_retry, training_start
from labelapp.simulation.client import SimulationError
from labelapp.simulation.crew import Done, Plan, crew_run, demonstrations_read
from labelapp.simulation.figures import RoundFigures, figures_of
from labelapp.simulation.utilities import UTILITIES

CHIEF = "demo-round"
AGAIN = "Start the demo round again: it goes on where it was."
EVERY = 10.0
"""Seconds between two lines about the same thing."""
SHOWN = ("loss", "accuracy", "valid_accuracy", "reward", "kl", "tokens_per_second")
"""Figures worth a place in a line of progress."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class RoundPlan:
    """How big a round, and who works in it."""

    labeling: Plan
    rankings: int = 200
    both: int = 40
    """Ranking tasks that two labelers do."""
    demonstrations: int = 300
    """At most; those that the project has already count."""
    k: int = 4
    max_new_tokens: int = 48
    temperature: float = 1.0
    profile: str = "demo"


EVALUATION_SEEDS = {"base": 1, "sft": 2, "policy": 3}
"""Another for each, so that the answers compared were drawn independently."""


class DemoRound:
    """The steps of a round, each of which finds what an earlier start has done already."""

    def __init__(
        self, project: Project, plan: RoundPlan, *, say: Say, nudge: Callable[[], None]
    ) -> None:
        """``nudge`` tells the GPU workers that something was queued."""
        self.project = project
        self.plan = plan
        self.nudge = nudge
        self.began = timezone.now()
        self.chief: User = simulated_chief_get(username=CHIEF)
        self._say = say
        self._said: dict[str, tuple[float, str, str]] = {}

    def run(self) -> RoundFigures:
        """From opening the round to its figures. Raises LabelappError with what to do."""
        stack_check(self.plan.labeling.url)
        base = self.base_version()
        round_ = self.open_round()
        self.began = min(self.began, round_.created_at)
        evaluations = {"base": self.evaluation("base", base, round_)}
        self.label(round_)
        training = self.train(round_)
        while True:
            runs = {run.stage: run for run in training.runs.all()}
            for name, stage in (("sft", Run.Stage.SFT), ("policy", Run.Stage.PPO)):
                version = ModelVersion.objects.filter(run=runs[stage]).first()
                if name not in evaluations and version is not None:
                    evaluations[name] = self.evaluation(name, version, round_)
            if self.finished([*runs.values(), *evaluations.values()]) and len(evaluations) == 3:
                break
            time.sleep(1.0)
        return figures_of(
            round_=round_,
            training=training,
            evaluations=evaluations,
            utility=UTILITIES[self.plan.labeling.preference],
            began=self.began,
        )

    def close(self) -> None:
        """End the round, once its figures are kept: the next start opens a new one."""
        for round_ in self.project.rounds.filter(state=Round.State.OPEN, created_by=self.chief):
            round_close(round=round_)

    # --- steps

    def base_version(self) -> ModelVersion:
        """The base model, once its run is done."""
        while True:
            version = (
                self.project.versions.filter(run__stage=Run.Stage.BASE).order_by("number").last()
            )
            if version is not None:
                return version
            runs = list(self.project.runs.filter(stage=Run.Stage.BASE))
            if not runs:
                raise SimulationError("There is no base model; load the demo first.")
            self.finished(runs[:1])
            time.sleep(1.0)

    def open_round(self) -> Round:
        """The demo round under way, or a new one; another round that is open is closed."""
        round_ = self.project.rounds.filter(state=Round.State.OPEN).first()
        if round_ is not None and round_.created_by_id == self.chief.pk:
            self.say(f"Going on with round {round_.number}.")
            sampling_queue(round=round_)
            self.nudge()
            return round_
        if round_ is not None:
            self.say(f"Closing round {round_.number}, which is open; its labels stay.")
            for run in round_.runs.filter(state__in=LIVE):
                with suppress(StateConflict):
                    run_cancel(run=run, by=self.chief)
            round_close(round=round_)
        plan = self.plan
        answerable = min(
            plan.demonstrations,
            len(prompts_for_labeling(self.project)),
            len(demonstrations_read(plan.labeling.demonstrations)),
        )
        there = self.project.demonstrations.current().filter(surplus=False).count()
        round_ = round_open(
            project=self.project,
            by=self.chief,
            demonstrations_wanted=max(answerable - there, 0),
            rankings_wanted=plan.rankings,
            k=plan.k,
            temperature=plan.temperature,
            max_new_tokens=plan.max_new_tokens,
            overlap=2,
            overlap_tasks=plan.both,
        )
        self.nudge()
        self.say(
            f"Opened round {round_.number}: {round_.demonstrations_wanted} demonstrations,"
            f" {plan.rankings} rankings of {plan.k} answers by {round_.policy}."
        )
        return round_

    def evaluation(self, name: str, version: ModelVersion, round_: Round) -> Run:
        """The run that answers the test prompts with this version, for this round."""
        found = (
            self.project.runs.filter(
                stage=Run.Stage.SAMPLE,
                round=None,
                inputs__role="model",
                inputs__version=version,
                settings__seed=EVALUATION_SEEDS[name],
                created_at__gte=round_.created_at,
            )
            .order_by("created_at")
            .first()
        )
        if found is None:
            found = evaluation_sampling_queue(
                project=self.project,
                version=version,
                split="test",
                k=self.plan.k,
                temperature=self.plan.temperature,
                max_new_tokens=self.plan.max_new_tokens,
                seed=EVALUATION_SEEDS[name],
            )
        elif found.state not in (*LIVE, Run.State.DONE):
            found = run_retry(run=found, by=self.chief)
        self.nudge()
        return found

    def label(self, round_: Round) -> None:
        """Let the crew work until the round has nothing left."""

        def tell(done: Done) -> None:
            self.finished(list(round_.runs.all()))
            self.say_now_and_then(
                "labels",
                f"Labelers: {done.demonstrations} of {done.demonstrations_at_most} demonstrations,"
                f" {done.rankings} of {done.rankings_at_most} rankings",
            )

        done = crew_run(project=self.project, plan=self.plan.labeling, tell=tell)
        self.say(f"Labelers: {done.sentence}")

    def train(self, round_: Round) -> Training:
        """The round's training, started, or gone on with where it failed or was stopped."""
        training = round_.trainings.filter(started_by=self.chief).order_by("created_at").last()
        if training is None:
            training = training_start(
                round=round_, by=self.chief, include_simulated=True, profile=self.plan.profile
            )
            self.say("Started training: SFT, reward model, PPO-ptx.")
        elif training.state in (Training.State.FAILED, Training.State.CANCELLED):
            training = training_retry(training=training, by=self.chief)
            self.say("Going on with the training that had ended early.")
        self.nudge()
        return training

    # --- telling

    def finished(self, runs: list[Run]) -> bool:
        """Say how far the runs are; whether all are done. SimulationError when one failed."""
        done = True
        for run in runs:
            run.refresh_from_db()
            if run.state in (Run.State.FAILED, Run.State.CANCELLED):
                reason = run.error or "Somebody stopped it."
                raise SimulationError(f"{_name(run)}: {reason} {AGAIN}")
            self.say_now_and_then(str(run.pk), _line(_name(run), stage_view(run)), run.state)
            done = done and run.state == Run.State.DONE
        return done

    def say(self, line: str) -> None:
        """A line with the time since the round began."""
        self._say(f"{_clock(timezone.now() - self.began)}  {line}")

    def say_now_and_then(self, about: str, line: str, state: str = "") -> None:
        """The same, where it is news: at once for another state, else every so often."""
        at, line_before, state_before = self._said.get(about, (0.0, "", "nothing said"))
        now = time.monotonic()
        if state == Run.State.QUEUED or line == line_before:
            return
        if state == state_before and now - at < EVERY:
            return
        self._said[about] = (now, line, state)
        self.say(line)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Two would take each other's labelers. The lock dies with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SimulationError(
                "A demo round is under way already; wait until it ends."
            ) from None
        yield


def stack_check(url: str) -> None:
    """Raise SimulationError, with what to do, unless a web server answers there."""
    try:
        ok = httpx.get(f"{url.rstrip('/')}/healthz", timeout=10).status_code == 200
    except httpx.HTTPError:
        ok = False
    if not ok:
        raise SimulationError(
            f"labelapp does not answer at {url}: start it with `make demo`, or use `make demo-round`."
        )


def _name(run: Run) -> str:
    if run.stage == Run.Stage.SAMPLE:
        version = run.inputs.select_related("version").get(role="model").version
        return f"Answers of {version}" + ("" if run.round_id else " to the test prompts")
    return run.get_stage_display()


def _line(name: str, view: StageView) -> str:
    if view.state == Run.State.DONE:
        figures = _shown(view)
        return f"{name}: done in {view.seconds or 0:.0f} s{figures}"
    return f"{name}: {view.percent} %, {view.detail[:1].lower()}{view.detail[1:]}{_shown(view)}"


def _shown(view: StageView) -> str:
    known = {name: view.figures.get(name) for name in SHOWN}
    parts = [
        f"{name.replace('_', ' ')} {value:.3g}"
        for name, value in known.items()
        if isinstance(value, int | float)
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _clock(since: timedelta) -> str:
    minutes, seconds = divmod(max(int(since.total_seconds()), 0), 60)
    return f"{minutes:3d}:{seconds:02d}"
