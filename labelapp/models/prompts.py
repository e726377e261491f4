"""Prompts, and uploads of them that wait for a yes."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.sensitive import CATEGORIES, categories_field
from labelapp.models.versions import Label, LabelQuerySet, version_chain


class PromptKind(models.TextChoices):
    """InstructGPT's three kinds (appendix A.1)."""

    PLAIN = "plain", _("Plain")
    FEW_SHOT = "few_shot", _("Few-shot")
    USER = "user", _("User-based")


class UseCase(models.TextChoices):
    """InstructGPT's ten use cases (table 1)."""

    GENERATION = "generation", _("Generation")
    OPEN_QA = "open_qa", _("Open QA")
    BRAINSTORMING = "brainstorming", _("Brainstorming")
    CHAT = "chat", _("Chat")
    REWRITE = "rewrite", _("Rewrite")
    SUMMARIZATION = "summarization", _("Summarization")
    CLASSIFICATION = "classification", _("Classification")
    OTHER = "other", _("Other")
    CLOSED_QA = "closed_qa", _("Closed QA")
    EXTRACT = "extract", _("Extract")


class Split(models.TextChoices):
    TRAIN = "train", _("Train")
    VALID = "valid", _("Valid")
    TEST = "test", _("Test")


def text_fingerprint(text: str) -> str:
    """SHA-256 of the text, white space folded and case dropped: equal means duplicate."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()


def conversation_text(messages: Iterable[Mapping[str, str]]) -> str:
    """A conversation as one text, to be searched, listed and told from others."""
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


class Prompt(Label):
    """One prompt. Its split is decided once, by its author, and never changes.

    One that a labeler wrote is handed in like a label: it settles, and is corrected by a further
    version. Only settled ones, in their current version, go on to tasks and snapshots.
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="prompts")
    kind = models.CharField(max_length=16, choices=PromptKind)
    use_case = models.CharField(max_length=16, choices=UseCase)
    author = models.CharField(max_length=80)
    split = models.CharField(max_length=8, choices=Split)
    text = models.TextField(help_text="The whole prompt as the model sees it.")
    parts = models.JSONField(
        default=dict,
        help_text=(
            "few_shot: instruction, pairs, query; user: stated_use_case; plain: empty. Any of"
            " them may be a conversation: messages, the person's turn last."
        ),
    )
    sensitive = categories_field("Content that is covered until its reader asks for it.")
    fingerprint = models.CharField(max_length=64)
    assignment = models.ForeignKey(
        "labelapp.Assignment",
        models.PROTECT,
        null=True,
        db_index=False,  # the versions of an assignment are found by their constraint
        related_name="prompts_written",
        help_text="The task it was written in.",
    )
    client_id = models.UUIDField(null=True, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = LabelQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            *version_chain("prompt"),
            models.UniqueConstraint(fields=["project", "fingerprint"], name="prompt_once"),
            models.CheckConstraint(condition=Q(kind__in=PromptKind.values), name="prompt_kind"),
            models.CheckConstraint(condition=Q(split__in=Split.values), name="prompt_split"),
            models.CheckConstraint(
                condition=Q(use_case__in=UseCase.values), name="prompt_use_case"
            ),
            models.CheckConstraint(condition=~Q(text=""), name="prompt_not_empty"),
            models.CheckConstraint(
                condition=Q(sensitive__contained_by=CATEGORIES), name="prompt_sensitive"
            ),
            models.CheckConstraint(
                condition=Q(assignment__isnull=True, client_id__isnull=True)
                | Q(assignment__isnull=False, client_id__isnull=False),
                name="prompt_written_once",
            ),
            models.CheckConstraint(
                condition=Q(version=1) | Q(assignment__isnull=False), name="prompt_version_written"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["project", "split", "kind", "use_case"], name="prompt_pick"),
        ]

    def __str__(self) -> str:
        return self.text[:60]

    def messages(self) -> list[dict[str, Any]]:
        """The conversation that the model is given."""
        turns: list[dict[str, Any]] = self.parts.get("messages", [])
        return turns or [{"role": "user", "content": self.text}]


class Upload(models.Model):
    """A parsed file of prompts or demonstrations, shown before anything of it is written.

    ``rows`` holds what would be written, ``problems`` one entry per refused line:
    ``{"line": int, "message": str, "duplicate": bool}``.
    """

    class Kind(models.TextChoices):
        PROMPTS = "prompts", _("Prompts")
        DEMONSTRATIONS = "demonstrations", _("Demonstrations")

    class State(models.TextChoices):
        PREVIEW = "preview", _("Waiting for your decision")
        APPLIED = "applied", _("Added")
        DISCARDED = "discarded", _("Discarded")

    project = models.ForeignKey(Project, models.CASCADE, related_name="uploads")
    kind = models.CharField(max_length=16, choices=Kind)
    file_name = models.CharField(max_length=200)
    rows = models.JSONField(default=list)
    problems = models.JSONField(default=list)
    state = models.CharField(max_length=12, choices=State, default=State.PREVIEW)
    created_by = models.ForeignKey(User, models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.file_name} ({self.kind})"
