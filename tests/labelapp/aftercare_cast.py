"""What the tests of undo, corrections and history share: a labeler who has handed something in."""

from dataclasses import dataclass
from datetime import timedelta

from django.test import Client
from django.utils import timezone

from labelapp.models import Assignment, Demonstration, Project, Ranking, Round, User, Vote
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit, text_submit
from tests.factories import client_id, make_member, make_project, make_round, make_task

GROUPS = [["C"], ["A", "D"], ["B"]]


@dataclass(frozen=True)
class Done:
    """A project with one open round, one labeler, and what they submitted last."""

    project: Project
    round: Round
    labeler: User
    assignment: Assignment
    label: Demonstration | Ranking

    def client(self) -> Client:
        client = Client()
        client.force_login(self.labeler, backend="django.contrib.auth.backends.ModelBackend")
        return client

    def again(self) -> Assignment:
        """The assignment as the database has it now."""
        return Assignment.objects.select_related("task__round").get(pk=self.assignment.pk)


def handed_in(kind: str = "demonstration", *, simulated: bool = False) -> Done:
    project = make_project()
    round_ = make_round(project)
    make_task(round_, kind)
    labeler = make_member(project)
    labeler.simulated = simulated
    labeler.save()
    return submit_next(project, round_, labeler)


def submit_next(project: Project, round_: Round, labeler: User) -> Done:
    """Take the next task and submit it."""
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    return Done(project, round_, labeler, assignment, submit(assignment, labeler))


def submit(assignment: Assignment, labeler: User, text: str = "Tea.") -> Demonstration | Ranking:
    asked = {"assignment_id": assignment.pk, "labeler": labeler, "client_id": client_id()}
    if assignment.task.kind == "ranking":
        return ranking_submit(**asked, groups=GROUPS)
    return text_submit(**asked, text=text)


def settle() -> None:
    """Let ten seconds pass for every label."""
    past = timezone.now() - timedelta(seconds=1)
    Assignment.objects.filter(settles_at__isnull=False).update(settles_at=past)
    Assignment.objects.filter(undo_until__isnull=False).update(undo_until=past)
    Demonstration.objects.update(settles_at=past)
    Ranking.objects.update(settles_at=past)
    Vote.objects.update(settles_at=past)
