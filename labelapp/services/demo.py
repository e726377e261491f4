"""The demo project: people, prompts, instructions and a first round. Safe to run again."""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from labelapp.models import Membership, ModelVersion, Project, Role, Round
from labelapp.services.people import user_create
from labelapp.services.prompts import prompt_checked, prompts_create
from labelapp.services.rounds import instructions_add, prompts_for_labeling, round_open

SLUG = "demo"
DATA = Path(__file__).resolve().parent.parent / "demo"
PEOPLE = (
    ("admin", Role.ADMIN, "Ada Admin"),
    ("researcher", Role.RESEARCHER, "Rosa Researcher"),
    ("labeler1", Role.LABELER, "Lena Labeler"),
    ("labeler2", Role.LABELER, "Luca Labeler"),
    ("labeler3", Role.LABELER, "Lin Labeler"),
)


@dataclass(frozen=True)
class SignIn:
    """One line of the printed list."""

    role: str
    username: str
    password: str


def demo_rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one of the demo's own JSON Lines files."""
    with (DATA / name).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def signins_file() -> Path:
    """Where the demo's sign-ins are kept, readable by the owner alone."""
    return Path(settings.LABELAPP_VAR) / "demo-signins.txt"


@transaction.atomic
def demo_project_create() -> tuple[Project, list[SignIn]]:
    """The demo project; the sign-ins of the people made by this call, if it made any."""
    project, made = Project.objects.get_or_create(
        slug=SLUG,
        defaults={
            "name": "Demo",
            "min_demonstrations": settings.MIN_DEMONSTRATIONS,
            "min_rankings": settings.MIN_RANKINGS,
        },
    )
    if not made:
        return project, []
    prompts_create(project=project, prompts=map(prompt_checked, demo_rows("prompts.jsonl")))
    instructions_add(project=project, body=(DATA / "instructions.md").read_text(encoding="utf-8"))
    signins = []
    for username, role, full_name in PEOPLE:
        password = secrets.token_urlsafe(12)
        user = user_create(username=username, password=password, full_name=full_name)
        Membership.objects.create(project=project, user=user, role=role)
        signins.append(SignIn(role, username, password))
    _signins_write(signins)
    return project, signins


def _signins_write(signins: list[SignIn]) -> None:
    path = signins_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    lines = "".join(f"{each.role:<12}{each.username:<14}{each.password}\n" for each in signins)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(lines)
    os.replace(beside, path)


def demo_round_open(project: Project) -> Round | None:
    """Round 1, if the base model is there and no round was ever opened; else None.

    Every prompt of train and valid gets a demonstration and a ranking task.
    """
    ready = project.versions.filter(
        role=ModelVersion.Role.POLICY, state=ModelVersion.State.CURRENT
    ).exists()
    if not ready or project.rounds.exists():
        return None
    wanted = len(prompts_for_labeling(project))
    return round_open(
        project=project,
        demonstrations_wanted=wanted,
        rankings_wanted=wanted,
        k=4,
        temperature=1.0,
        max_new_tokens=48,
        live_prompting=True,
    )
