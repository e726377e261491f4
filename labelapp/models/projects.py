"""A project: the wall around prompts, rounds, labels and model versions."""

from typing import ClassVar

from django.db import models
from django.db.models import Q


class Project(models.Model):
    """Everything hangs on one; every lookup is scoped by it."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=120)
    min_demonstrations = models.PositiveIntegerField(
        default=20, help_text="Demonstrations needed before training may start."
    )
    min_rankings = models.PositiveIntegerField(
        default=20, help_text="Rankings needed before training may start."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(min_demonstrations__gte=1) & Q(min_rankings__gte=1),
                name="project_thresholds",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class InstructionVersion(models.Model):
    """The labelers' instructions as they stood: markdown, never edited, only followed."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="instructions")
    number = models.PositiveIntegerField()
    body = models.TextField()
    created_by = models.ForeignKey("labelapp.User", models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "number"], name="instructions_number"),
        ]

    def __str__(self) -> str:
        return f"instructions {self.number} of {self.project}"
