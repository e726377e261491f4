"""What the tests of pairs share: a round that compares two versions, and votes."""

from dataclasses import dataclass
from typing import Any

from django.test import Client

from labelapp.models import Assignment, Round, Sample, Task, Vote
from labelapp.selectors.pairs import PairResults, pair_results
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.votes import vote_submit
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_round,
    make_task,
    make_version,
)


def pair_round(**fields: Any) -> Round:
    """An open round that compares its policy with an older version."""
    project = make_project()
    opponent = make_version(project, state="retired")
    make_version(project, state="current")
    return make_round(project, **{"opponent": opponent, "pairs_wanted": 3} | fields)


def claimed(round_: Round, labeler: Any = None) -> Assignment:
    labeler = labeler or make_member(round_.project)
    taken = assignment_claim_next(project=round_.project, labeler=labeler, kind="pairwise")
    assert taken is not None
    return taken


def vote(taken: Assignment, choice: str = "left", **said: Any) -> Vote:
    asked = {"assignment_id": taken.pk, "labeler": taken.labeler, "client_id": client_id()}
    return vote_submit(**asked | {"choice": choice} | said)


def voted(choice: str = "left", **fields: Any) -> Vote:
    """A vote on the only pair of a round."""
    round_ = pair_round(**fields)
    make_task(round_, "pairwise")
    return vote(claimed(round_), choice)


def client_of(label: Vote) -> Client:
    client = Client()
    client.force_login(label.labeler, backend="django.contrib.auth.backends.ModelBackend")
    return client


@dataclass
class Poll:
    """A round with pairs; ``say`` hands in one vote for the policy, the opponent, a tie, both bad."""

    round: Round

    def pair(self, overlap: int = 1) -> Task:
        return make_task(self.round, "pairwise", overlap=overlap)

    def say(self, what: str) -> Vote:
        taken = claimed(self.round)
        left = Sample.objects.get(pk=taken.shown_order[0])
        sides = ["left", "right"] if left.version_id == self.round.policy_id else ["right", "left"]
        return vote(taken, dict(zip(("policy", "opponent"), sides, strict=True)).get(what, what))

    def results(self) -> PairResults:
        found = pair_results(self.round)
        assert found is not None
        return found
