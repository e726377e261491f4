"""Samples: single completions of model versions, each traceable to how it was drawn."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from labelapp.models.assignments import Task
from labelapp.models.projects import Project
from labelapp.models.prompts import Prompt
from labelapp.models.registry import ModelVersion, Run


class Sample(models.Model):
    """One completion. The task is null where it was drawn to be scored, not to be ranked."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="samples")
    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="samples")
    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="samples")
    run = models.ForeignKey(Run, models.PROTECT, related_name="samples")
    task = models.ForeignKey(Task, models.PROTECT, null=True, related_name="samples")
    index = models.PositiveSmallIntegerField()
    text = models.TextField(blank=True)
    names_model = models.CharField(
        max_length=40,
        blank=True,
        default="",
        db_default="",
        help_text="The model or maker that the text names as its own.",
    )
    token_ids = ArrayField(models.IntegerField(), default=list)
    finished = models.BooleanField(help_text="Ended by itself, not by the length limit.")
    seed = models.BigIntegerField()
    temperature = models.FloatField()
    max_new_tokens = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "prompt", "index"], name="sample_once"),
            models.CheckConstraint(
                condition=Q(temperature__gte=0), name="sample_temperature_not_negative"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["task"], condition=~Q(names_model=""), name="sample_named"),
        ]

    def __str__(self) -> str:
        return f"sample {self.pk} of {self.version}"


class SampleScore(models.Model):
    """What one reward model thinks of one sample: it orders the answers of a task, no more.

    A trigger refuses a score by what is no reward model, or of another project.
    """

    sample = models.ForeignKey(Sample, models.CASCADE, related_name="scores", db_index=False)
    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="scores")
    run = models.ForeignKey(Run, models.PROTECT, related_name="scores")
    score = models.FloatField()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["sample", "version"], name="score_once"),
            models.CheckConstraint(
                condition=Q(score__gt=float("-inf")) & Q(score__lt=float("inf")),
                name="score_finite",  # PostgreSQL's NaN is above infinity
            ),
        ]

    def __str__(self) -> str:
        return f"{self.score} for sample {self.sample_id}"
