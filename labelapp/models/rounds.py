"""Labeling rounds and the trainings that follow them."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from labelapp.models.people import User
from labelapp.models.projects import InstructionVersion, Project


class Round(models.Model):
    """One labeling round: who answers, how, and how many labelers look at each task."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        CLOSED = "closed", "Closed"

    project = models.ForeignKey(Project, models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    policy = models.ForeignKey(
        "labelapp.ModelVersion", models.PROTECT, related_name="rounds", help_text="Who answers."
    )
    instructions = models.ForeignKey(InstructionVersion, models.PROTECT)
    kinds = ArrayField(models.CharField(max_length=16), default=list, help_text="Empty: all.")
    use_cases = ArrayField(models.CharField(max_length=16), default=list, help_text="Empty: all.")
    demonstrations_wanted = models.PositiveIntegerField(default=0, help_text="Tasks of that kind.")
    rankings_wanted = models.PositiveIntegerField(default=0, help_text="Tasks of that kind.")
    k = models.PositiveSmallIntegerField(default=4, help_text="Answers per ranking task, 2 to 9.")
    temperature = models.FloatField(default=1.0)
    max_new_tokens = models.PositiveIntegerField(default=128, help_text="Longest answer, tokens.")
    overlap = models.PositiveSmallIntegerField(default=1, help_text="Labelers per ranking task.")
    overlap_tasks = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Ranking tasks with that overlap, the rest have 1; empty: all.",
    )
    live_prompting = models.BooleanField(
        default=False, help_text="Labelers may write prompts and get answers at once."
    )
    seed = models.PositiveIntegerField(default=0)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "number"], name="round_number"),
            models.UniqueConstraint(
                fields=["project"], condition=Q(state="open"), name="round_one_open"
            ),
            models.CheckConstraint(condition=Q(k__gte=2) & Q(k__lte=9), name="round_k"),
            models.CheckConstraint(condition=Q(temperature__gte=0), name="round_temperature"),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="round_overlap"),
            models.CheckConstraint(condition=Q(max_new_tokens__gte=1), name="round_max_new_tokens"),
        ]

    def __str__(self) -> str:
        return f"round {self.number} of {self.project}"


class Training(models.Model):
    """One press of the button: SFT, then the reward model, then PPO, on a round's labels."""

    class State(models.TextChoices):
        ACTIVE = "active", "Running"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Stopped"

    project = models.ForeignKey(Project, models.CASCADE, related_name="trainings")
    round = models.ForeignKey(Round, models.PROTECT, related_name="trainings")
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    include_simulated = models.BooleanField(default=False)
    profile = models.CharField(max_length=32, help_text="Named stage settings it ran with.")
    started_by = models.ForeignKey(User, models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["project"], condition=Q(state="active"), name="training_one_active"
            ),
        ]

    def __str__(self) -> str:
        return f"training on {self.round}"
