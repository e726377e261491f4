"""A labeler with a prompt to write."""

from labelapp.models import Assignment, Project, Task, User
from labelapp.services.assignments import assignment_claim_next
from tests.factories import make_round

PLAIN = {"use_case": "brainstorming", "text": "Name ten uses of an old door."}


def claimed(project: Project, labeler: User, kind: str = "plain") -> Assignment:
    round_ = project.rounds.first() or make_round(project)
    Task.objects.create(
        project=project,
        round=round_,
        kind=Task.Kind.PROMPT,
        asked_kind=kind,
        brief="I sell bicycles." if kind == "user" else "",
        state=Task.State.OPEN,
        position=Task.objects.count(),
    )
    assignment = assignment_claim_next(project=project, labeler=labeler, kind="prompt")
    assert assignment is not None
    return assignment
