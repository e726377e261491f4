"""Prompts that labelers write at work, to be answered at once."""

from typing import ClassVar

from django.db import models

from labelapp.models.assignments import Task
from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.prompts import Prompt, UseCase
from labelapp.models.registry import Run
from labelapp.models.rounds import Round


class LivePrompt(models.Model):
    """Who wrote a prompt live, in which round, and the ranking task it became.

    While ``asked_until`` lies ahead its answers are being drawn live; else, as long as its task
    waits, a sampling run answers it. A trigger refuses it where the round does not allow it.
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="live_prompts")
    round = models.ForeignKey(Round, models.PROTECT, related_name="live_prompts")
    labeler = models.ForeignKey(User, models.PROTECT, related_name="live_prompts")
    prompt = models.OneToOneField(Prompt, models.PROTECT, related_name="live")
    task = models.OneToOneField(Task, models.PROTECT, related_name="live")
    client_id = models.UUIDField(unique=True)
    asked_until = models.DateTimeField(null=True)
    run = models.ForeignKey(
        Run, models.SET_NULL, null=True, related_name="+", help_text="Sampling run that has it."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        indexes: ClassVar = [
            models.Index(fields=["labeler", "project", "-created_at"], name="live_own"),
        ]

    def __str__(self) -> str:
        return f"live prompt {self.pk}"


class LiveDraft(models.Model):
    """What a labeler types of their next live prompt, one in a project. Gone once it is asked."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="live_drafts")
    labeler = models.ForeignKey(User, models.CASCADE, related_name="live_drafts")
    text = models.TextField()
    use_case = models.CharField(max_length=16, choices=UseCase)
    client_id = models.UUIDField(help_text="Of the prompt that it becomes.")
    saved_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "labeler"], name="live_draft_once"),
            models.CheckConstraint(
                condition=models.Q(use_case__in=UseCase.values), name="live_draft_use_case"
            ),
        ]

    def __str__(self) -> str:
        return f"live draft of {self.labeler}"
