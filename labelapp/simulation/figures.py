"""What came out of a round, read from its rows: speed, agreement, accuracy, KL, win rates."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

from django.utils import timezone

from labelapp.models import Ranking, RankingPlace, Round, Run, Sample, Training
from labelapp.simulation.statistics import (
    Agreement,
    Interval,
    bootstrap_mean,
    pairwise_agreement,
    win_share,
)
from labelapp.simulation.utilities import Utility

RM_ACCURACY = ("valid_accuracy", "accuracy")
"""Of the reward stage: share of untied pairs of valid-split rankings in the labeler's order."""
KL = ("valid_kl", "kl")
"""Of the PPO stage, in nats per answer: on held-out prompts after the last update, else on the last
rollout batch."""


@dataclass(frozen=True)
class StageFigures:
    """How fast a stage was, from its process's start to its end."""

    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class RoundFigures:
    """Everything a demo round ends with. Rates are fractions."""

    round: int
    stages: dict[str, StageFigures]
    demonstrations: int
    rankings: int
    rm_accuracy: float | None
    labeler_agreement: Agreement
    kl: float | None
    """Of the new policy from SFT at the end, nats per answer."""
    win_rate_vs_sft: Interval
    win_rate_vs_base: Interval
    total_seconds: float


def figures_of(
    *,
    round_: Round,
    training: Training,
    evaluations: Mapping[str, Run],
    utility: Utility,
    began: datetime,
) -> RoundFigures:
    """The figures of a round whose runs are all done.

    ``evaluations``: the runs that answered the test prompts, by ``base``, ``sft``, ``policy``.
    """
    of_stage = {run.stage: run for run in training.runs.all()}
    runs = {
        "sample": round_.runs.filter(stage=Run.Stage.SAMPLE, state=Run.State.DONE).latest(
            "created_at"
        ),
        **{str(stage): of_stage[stage] for stage in TRAINED if stage in of_stage},
        **{f"test_{name}": run for name, run in evaluations.items()},
    }
    scores = {name: answer_scores(run, utility) for name, run in evaluations.items()}
    reward, ppo = of_stage[Run.Stage.REWARD].figures, of_stage[Run.Stage.PPO].figures
    return RoundFigures(
        round=round_.number,
        stages={name: stage_figures(run) for name, run in runs.items()},
        demonstrations=round_.project.demonstrations.current().filter(surplus=False).count(),
        rankings=Ranking.objects.current().filter(task__round=round_, surplus=False).count(),
        rm_accuracy=_first(reward, RM_ACCURACY),
        labeler_agreement=labeler_agreement(round_),
        kl=_first(ppo, KL),
        win_rate_vs_sft=win_rate(scores["policy"], scores["sft"]),
        win_rate_vs_base=win_rate(scores["policy"], scores["base"]),
        total_seconds=(timezone.now() - began).total_seconds(),
    )


def _first(figures: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The first of these figures that is there."""
    for name in names:
        if isinstance(figures.get(name), int | float):
            return float(figures[name])
    return None


TRAINED = (Run.Stage.TEXT, Run.Stage.SFT, Run.Stage.REWARD, Run.Stage.PPO)


def stage_figures(run: Run) -> StageFigures:
    """Seconds between the run's start and its end, tokens by its own count."""
    assert run.started_at is not None  # it is done
    assert run.finished_at is not None
    seconds = (run.finished_at - run.started_at).total_seconds()
    return StageFigures(seconds=seconds, tokens=int(run.figures.get("tokens") or 0))


def labeler_agreement(round_: Round) -> Agreement:
    """Over the round's tasks that several simulated labelers ranked, every two of them compared."""
    groups: dict[int, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    places = RankingPlace.objects.filter(
        ranking__task__round=round_,
        ranking__simulated=True,
        ranking__surplus=False,
        ranking__version=1,
    )
    for task, ranking, sample, group in places.values_list(
        "ranking__task_id", "ranking_id", "sample_id", "group"
    ):
        if group is not None:  # not judged
            groups[task][ranking][sample] = group
    total = Agreement(0, 0)
    for rankings in groups.values():
        for one, two in combinations(rankings.values(), 2):
            samples = sorted(one.keys() & two.keys())
            total += pairwise_agreement([one[s] for s in samples], [two[s] for s in samples])
    return total


def answer_scores(run: Run, utility: Utility) -> dict[int, list[float]]:
    """Prompt id -> noise-free utilities of the answers that a run drew."""
    scores: dict[int, list[float]] = defaultdict(list)
    rows = list(Sample.objects.filter(run=run).order_by("id").values_list("prompt_id", "text"))
    for (prompt, _), value in zip(rows, utility([text for _, text in rows]), strict=True):
        scores[prompt].append(value)
    return dict(scores)


def win_rate(ours: Mapping[int, list[float]], theirs: Mapping[int, list[float]]) -> Interval:
    """Mean share of won pairs over the prompts that both answered, with its interval."""
    both = sorted(set(ours) & set(theirs))
    return bootstrap_mean([win_share(ours[prompt], theirs[prompt]) for prompt in both])
