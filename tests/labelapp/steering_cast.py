"""A small project with one of everything that the admins' and researchers' pages show."""

import html
from dataclasses import dataclass
from typing import Any

from django.test import Client

from labelapp.models import (
    Assignment,
    Membership,
    ModelVersion,
    Project,
    Role,
    Round,
    Run,
    Snapshot,
    Training,
    Upload,
    User,
)
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.concerns import flag_raise, note_ask
from labelapp.services.labels import ranking_submit, text_submit
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.trainings import training_start
from labelapp.services.uploads import upload_preview
from tests.factories import client_id, make_member, make_project, make_round, make_task

BACKEND = "django.contrib.auth.backends.ModelBackend"


def signed_in(user: User | None, **options: bool) -> Client:
    """A browser in which this person is signed in; nobody for none."""
    client = Client(**options)  # type: ignore[arg-type]
    if user is not None:
        client.force_login(user, backend=BACKEND)
    return client


@dataclass
class Cast:
    """One project's rows, and its people by role."""

    project: Project
    round: Round
    people: dict[str, User]
    assignment: Assignment
    training: Training
    run: Run
    version: ModelVersion
    upload: Upload
    snapshot: Snapshot

    def membership(self, role: str) -> Membership:
        return self.project.memberships.get(user=self.people[role])


def demonstrate(project: Project, labeler: User, text: str = "Because it is so.") -> None:
    """The labeler takes the next demonstration task and hands it in."""
    claimed = assignment_claim_next(project=project, labeler=labeler, kind="demonstration")
    assert claimed is not None
    text_submit(
        assignment_id=claimed.pk, labeler=labeler, text=text, client_id=client_id(), active_ms=0
    )


def rank(project: Project, labeler: User, groups: list[list[str]] | None = None) -> None:
    """The labeler takes the next ranking task and hands it in; letters are as shown."""
    claimed = assignment_claim_next(project=project, labeler=labeler, kind="ranking")
    assert claimed is not None
    ranking_submit(
        assignment_id=claimed.pk,
        labeler=labeler,
        groups=groups or [["B"], ["A", "D"], ["C"]],
        client_id=client_id(),
    )


def make_cast(slug: str = "garden") -> Cast:
    """A round with labels, work in hand, a training, an upload and a snapshot. Needs ``store``."""
    project = make_project(slug)
    people = {role: make_member(project, role, f"{role}-{slug}") for role in Role.values}
    round_ = make_round(project)
    for kind in ("demonstration", "demonstration", "ranking"):
        make_task(round_, kind)
    labeler = people[Role.LABELER]
    demonstrate(project, labeler)
    rank(project, labeler)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    said = {"assignment_id": assignment.pk, "labeler": labeler}
    note_ask(**said, text="How long?", client_id=client_id())
    flag_raise(**said, category="harmful", client_id=client_id())
    training = training_start(round=round_, by=people[Role.ADMIN])
    return Cast(
        project=project,
        round=round_,
        people=people,
        assignment=assignment,
        training=training,
        run=training.runs.get(stage="sft"),
        version=round_.policy,
        upload=upload_preview(
            project=project,
            kind="prompts",
            file_name="own.jsonl",
            content=b'{"text": "Name three rivers.", "author": "ann"}\n',
            by=people[Role.ADMIN],
        ),
        snapshot=snapshot_freeze(project=project, kind="comparisons"),
    )


HTMX = {"HX-Request": "true"}
"""The headers of a request by htmx."""


def admin_of(project: Project) -> Client:
    """A browser in which a fresh admin of the project is signed in."""
    return signed_in(make_member(project, Role.ADMIN))


def text(answer: Any) -> str:
    """The page as a reader gets it: entities resolved, white space folded."""
    return " ".join(html.unescape(answer.content.decode()).split())


def main_of(answer: Any) -> str:
    """The page without what stands around it on every page."""
    return text(answer).split("<main")[1].split("</main>")[0]


def streamed(answer: Any) -> bytes:
    """The body of an answer that comes in pieces."""
    return b"".join(answer.streaming_content)
