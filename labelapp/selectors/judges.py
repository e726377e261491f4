"""Reward models as judges of a round's answers: which ones, and how far they are."""

from dataclasses import dataclass

from labelapp.models import ModelVersion, Project, Round, Run, RunInput

JUDGES = 3
"""Reward models that score a round's answers, at most: with n of them, n (n - 1) / 2 orders are compared."""
JUDGE = "reward-"
"""Their role among the inputs of the run that asks them, before their number from 1."""


def judges_now(project: Project) -> list[ModelVersion]:
    """The newest reward models that nobody refused, each of another training, at most JUDGES."""
    usable = project.versions.filter(role=ModelVersion.Role.REWARD).exclude(
        state=ModelVersion.State.REFUSED
    )
    of_training: dict[object, ModelVersion] = {}
    for version in usable.select_related("run").order_by("-number"):
        of_training.setdefault(version.run.training_id or version.pk, version)
        if len(of_training) == JUDGES:
            break
    return list(of_training.values())


def judges_of_run(run: Run) -> list[ModelVersion]:
    """The reward models of a score run; a row of it names its own by its place here."""
    given = RunInput.objects.filter(run=run, role__startswith=JUDGE).order_by("role")
    return [each.version for each in given.select_related("version") if each.version is not None]


@dataclass(frozen=True)
class Scoring:
    """What a page says of the reward models that judge a round's answers."""

    run: Run | None
    """One that failed or was stopped before one that goes on; none where none was asked yet."""
    judges: list[ModelVersion]

    @property
    def ended(self) -> bool:
        """Whether it ended before it was done."""
        return self.run is not None and self.run.state in (Run.State.FAILED, Run.State.CANCELLED)

    @property
    def live(self) -> bool:
        """Whether it is still to come or under way."""
        return self.run is not None and self.run.state in (Run.State.QUEUED, Run.State.RUNNING)


def scoring_of(round_: Round) -> Scoring | None:
    """Of a round in active order; none for another order."""
    if round_.order != Round.Order.ACTIVE:
        return None
    runs = list(round_.runs.filter(stage=Run.Stage.SCORE).order_by("-created_at"))
    ended = [run for run in runs if run.state in (Run.State.FAILED, Run.State.CANCELLED)]
    shown = next(iter([*ended, *runs]), None)
    return Scoring(shown, judges_of_run(shown) if shown else [])
