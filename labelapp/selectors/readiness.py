"""Whether there is enough to train on, and what is missing."""

from dataclasses import dataclass

from labelapp.models import Project


@dataclass(frozen=True)
class Enough:
    """Labels that a training would read, beside the project's thresholds."""

    demonstrations: int
    rankings: int
    min_demonstrations: int
    min_rankings: int

    @property
    def demonstrations_missing(self) -> int:
        return max(self.min_demonstrations - self.demonstrations, 0)

    @property
    def rankings_missing(self) -> int:
        return max(self.min_rankings - self.rankings, 0)

    @property
    def ready(self) -> bool:
        """Whether training may start."""
        return not self.demonstrations_missing and not self.rankings_missing


@dataclass(frozen=True)
class TrainingNeed:
    """With the labels of people alone, and with those of simulated labelers too."""

    people: Enough
    everyone: Enough

    @property
    def simulated(self) -> int:
        """Labels that including the simulated would add."""
        return (
            self.everyone.demonstrations
            + self.everyone.rankings
            - self.people.demonstrations
            - self.people.rankings
        )


def training_need(
    project: Project, *, people: tuple[int, int], everyone: tuple[int, int]
) -> TrainingNeed:
    """Beside the project's thresholds: demonstrations and rankings, of people and of all."""
    least = (project.min_demonstrations, project.min_rankings)
    return TrainingNeed(people=Enough(*people, *least), everyone=Enough(*everyone, *least))
