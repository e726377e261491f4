"""The shared cast: small real rows, made through services where one exists."""

import itertools
import uuid
from datetime import timedelta

from django.utils import timezone

from labelapp.models import (
    Assignment,
    InstructionVersion,
    Membership,
    ModelVersion,
    Project,
    Prompt,
    Role,
    Round,
    Run,
    Sample,
    Task,
    User,
)
from labelapp.services.prompts import PromptInput, prompts_create

_numbers = itertools.count(1)
PASSWORD = "correct horse battery"


def make_project(slug: str = "garden", **fields: object) -> Project:
    return Project.objects.create(
        **{"slug": slug, "name": slug.title(), "min_demonstrations": 1, "min_rankings": 1} | fields
    )


def make_user(username: str | None = None, **fields: object) -> User:
    username = username or f"person-{next(_numbers)}"
    return User.objects.create_user(username=username, password=PASSWORD, **fields)


def make_member(project: Project, role: str = Role.LABELER, username: str | None = None) -> User:
    """A person with a role in the project; returns the person."""
    user = make_user(username)
    Membership.objects.create(project=project, user=user, role=role)
    return user


def make_prompts(project: Project, count: int = 3, author: str = "author-train") -> list[Prompt]:
    """Plain prompts of one author, hence of one split (``author-train`` is in train)."""
    texts = [f"Tell me about thing number {next(_numbers)}." for _ in range(count)]
    prompts_create(
        project=project,
        prompts=[PromptInput("plain", "open_qa", author, text) for text in texts],
    )
    return list(Prompt.objects.filter(project=project, text__in=texts))


def make_version(
    project: Project, role: str = "policy", state: str = "candidate", stage: str = "base"
) -> ModelVersion:
    """A model version with a finished run behind it, but no folder."""
    run = Run.objects.create(project=project, stage=stage, state=Run.State.DONE)
    number = project.versions.filter(role=role).count()
    return ModelVersion.objects.create(
        project=project, role=role, number=number, state=state, run=run, sha256="0" * 64
    )


def make_round(project: Project, **fields: object) -> Round:
    """An open round without tasks."""
    policy = project.versions.filter(role="policy", state="current").first()
    policy = policy or make_version(project, state="current")
    instructions, _ = InstructionVersion.objects.get_or_create(
        project=project, number=1, defaults={"body": "Be helpful first."}
    )
    number = project.rounds.count() + 1
    return Round.objects.create(
        **{
            "project": project,
            "number": number,
            "policy": policy,
            "instructions": instructions,
        }
        | fields
    )


def make_task(round_: Round, kind: str = "demonstration", **fields: object) -> Task:
    """An open task on a fresh prompt; a ranking comes with its K samples."""
    (prompt,) = make_prompts(round_.project, 1)
    task = Task.objects.create(
        **{
            "project": round_.project,
            "round": round_,
            "prompt": prompt,
            "kind": kind,
            "state": Task.State.OPEN,
            "position": next(_numbers),
        }
        | fields
    )
    if kind == Task.Kind.RANKING:
        make_samples(task)
    elif kind == Task.Kind.PAIRWISE:
        make_pair(task)
    return task


def make_samples(task: Task) -> list[Sample]:
    """K samples of the round's policy for a ranking task."""
    round_ = task.round
    return Sample.objects.bulk_create(
        Sample(
            project=task.project,
            prompt=task.prompt,
            version=round_.policy,
            run=round_.policy.run,
            task=task,
            index=index,
            text=f"Answer number {index} to {task.prompt.text}",
            token_ids=[index, 2],
            finished=True,
            seed=1,
            temperature=1.0,
            max_new_tokens=16,
        )
        for index in range(round_.k)
    )


def make_pair(task: Task) -> list[Sample]:
    """An answer of the round's policy and one of its opponent, in that order."""
    round_ = task.round
    return [
        Sample.objects.create(
            project=task.project,
            prompt=task.prompt,
            version=version,
            run=version.run,
            task=task,
            index=0,
            text=f"The {name} answers {task.prompt.text}",
            token_ids=[number, 2],
            finished=True,
            seed=1,
            temperature=1.0,
            max_new_tokens=16,
        )
        for number, (name, version) in enumerate(
            (("one", round_.policy), ("other", round_.opponent))
        )
    ]


def lapse(assignment: Assignment) -> None:
    """Let the lease run out."""
    Assignment.objects.filter(pk=assignment.pk).update(
        lease_until=timezone.now() - timedelta(seconds=1)
    )


def client_id() -> uuid.UUID:
    return uuid.uuid4()
