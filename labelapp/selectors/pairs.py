"""Pairs of two versions' answers: what can be compared, and what the votes say."""

from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt

from django.db.models import Avg, Case, Count, F, FloatField, Q, QuerySet, Value, When

from labelapp.models import ModelVersion, Project, Prompt, Round, Vote
from labelapp.selectors.lists import prompts_fitting

Z = 1.959964
"""Of a 95 % interval."""


def opponents(project: Project) -> QuerySet[ModelVersion]:
    """Policies that the current one can be compared with, the newest first."""
    return (
        project.versions.filter(role=ModelVersion.Role.POLICY)
        .exclude(state__in=[ModelVersion.State.REFUSED, ModelVersion.State.CURRENT])
        .order_by("-number")
    )


def prompts_of_pairs(
    project: Project, split: str, kinds: Collection[str] = (), use_cases: Collection[str] = ()
) -> QuerySet[Prompt]:
    """The prompts that pairs of a round may answer."""
    return prompts_fitting(project, [split], kinds, use_cases)


# --- what the votes say


@dataclass(frozen=True)
class Rate:
    """A share, 0 to 1, of ``n``, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def point(self) -> int:
        """Where it is drawn, of 1000."""
        return round(1000 * self.value)

    @property
    def band(self) -> tuple[int, int]:
        """Where the interval begins, and how wide it is, of 1000."""
        return round(1000 * self.low), max(round(1000 * (self.high - self.low)), 1)


def wilson(value: float, n: int) -> Rate | None:
    """Wilson's interval for a share; none of nothing.

    Of a mean of shares, as the win rate over prompts with ties and several labelers is, it is
    rather too wide than too narrow: no share varies more than one that is 0 or 1.
    """
    if n == 0:
        return None
    middle = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(max(value * (1 - value), 0) / n + Z**2 / (4 * n**2))
    return Rate(value, max(middle - half, 0.0), min(middle + half, 1.0), n)


@dataclass(frozen=True)
class PairResults:
    """The votes of a round. A win rate is over prompts, a tie half a win, both bad left out."""

    policy: str
    opponent: str
    votes: int
    simulated: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    named: int
    """Votes where an answer says which model wrote it: they are in no rate."""
    policy_rate: Rate | None
    opponent_rate: Rate | None
    rate_on_left: Rate | None
    rate_on_right: Rate | None
    left_chosen: Rate | None
    """Of the votes for one of the two: how often for the left one. Far from a half is a bias."""


def pair_results(round_: Round) -> PairResults | None:
    """What the round's settled votes say, people's and simulated ones; none where it has no pairs.

    Of a corrected vote the latest version counts; surplus ones do not. Those that were not blind,
    since an answer names its model, are counted but in no rate.
    """
    if round_.opponent is None:
        return None
    votes = Vote.objects.current().filter(task__round=round_, surplus=False)
    on_left = Q(left__version=round_.policy_id)
    won = (on_left & Q(choice=Vote.Choice.LEFT)) | (~on_left & Q(choice=Vote.Choice.RIGHT))
    chosen = Q(choice__in=[Vote.Choice.LEFT, Vote.Choice.RIGHT])
    blind = Q(left__names_model="", right__names_model="")
    counts = votes.aggregate(
        votes=Count("id"),
        simulated=Count("id", filter=Q(simulated=True)),
        wins=Count("id", filter=won),
        losses=Count("id", filter=chosen & ~won),
        chosen=Count("id", filter=chosen & blind),
        chose_left=Count("id", filter=Q(choice=Vote.Choice.LEFT) & blind),
        ties=Count("id", filter=Q(choice=Vote.Choice.TIE)),
        both_bad=Count("id", filter=Q(choice=Vote.Choice.BOTH_BAD)),
        named=Count("id", filter=~blind),
    )
    score = Case(
        When(won, then=Value(1.0)),
        When(choice=Vote.Choice.TIE, then=Value(0.5)),
        default=Value(0.0),
        output_field=FloatField(),
    )
    judged = votes.filter(blind).exclude(choice=Vote.Choice.BOTH_BAD).annotate(score=score)
    policy_rate = _over_prompts(judged)
    return PairResults(
        policy=str(round_.policy),
        opponent=str(round_.opponent),
        votes=counts["votes"],
        simulated=counts["simulated"],
        wins=counts["wins"],
        losses=counts["losses"],
        ties=counts["ties"],
        both_bad=counts["both_bad"],
        named=counts["named"],
        policy_rate=policy_rate,
        opponent_rate=_other_side(policy_rate),
        rate_on_left=_over_prompts(judged.filter(on_left)),
        rate_on_right=_over_prompts(judged.filter(~on_left)),
        left_chosen=wilson(counts["chose_left"] / (counts["chosen"] or 1), counts["chosen"]),
    )


def _over_prompts(votes: QuerySet[Vote]) -> Rate | None:
    """The mean over prompts of the mean score of a prompt's votes."""
    of_prompt = votes.order_by().values("task").annotate(share=Avg("score"))
    found = of_prompt.aggregate(mean=Avg(F("share")), n=Count("task"))
    return wilson(found["mean"] or 0.0, found["n"])


def _other_side(rate: Rate | None) -> Rate | None:
    return None if rate is None else Rate(1 - rate.value, 1 - rate.high, 1 - rate.low, rate.n)
