"""Labels: demonstrations and rankings. Never edited, never deleted."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from labelapp.models.assignments import Assignment, Task
from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.prompts import Prompt
from labelapp.models.samples import Sample


class Demonstration(models.Model):
    """A completion that a person wrote, here or in an uploaded file."""

    class Source(models.TextChoices):
        LABELER = "labeler", "Labeler"
        UPLOAD = "upload", "Upload"

    project = models.ForeignKey(Project, models.CASCADE, related_name="demonstrations")
    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="demonstrations")
    assignment = models.OneToOneField(Assignment, models.PROTECT, null=True)
    labeler = models.ForeignKey(User, models.PROTECT, null=True, related_name="demonstrations")
    source = models.CharField(max_length=8, choices=Source)
    text = models.TextField()
    client_id = models.UUIDField(null=True, unique=True)
    active_ms = models.PositiveIntegerField(null=True)
    idle_ms = models.PositiveIntegerField(null=True)
    surplus = models.BooleanField(default=False)
    simulated = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=~Q(text=""), name="demonstration_not_empty"),
            models.CheckConstraint(
                condition=Q(
                    source="labeler",
                    assignment__isnull=False,
                    labeler__isnull=False,
                    client_id__isnull=False,
                )
                | Q(source="upload", assignment__isnull=True, labeler__isnull=True),
                name="demonstration_source",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["project", "id"], name="demonstration_list")]

    def __str__(self) -> str:
        return self.text[:60]


class Ranking(models.Model):
    """One labeler's ranking of all the answers of one task."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="rankings")
    task = models.ForeignKey(Task, models.PROTECT, related_name="rankings")
    assignment = models.OneToOneField(Assignment, models.PROTECT)
    labeler = models.ForeignKey(User, models.PROTECT, related_name="rankings")
    client_id = models.UUIDField(unique=True)
    active_ms = models.PositiveIntegerField(null=True)
    idle_ms = models.PositiveIntegerField(null=True)
    surplus = models.BooleanField(default=False)
    simulated = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["task", "labeler"], name="ranking_once"),
        ]
        indexes: ClassVar = [models.Index(fields=["project", "id"], name="ranking_list")]

    def __str__(self) -> str:
        return f"ranking {self.pk} of {self.task}"


class RankingPlace(models.Model):
    """Where one answer stands in a ranking: its group (0 best, shared is a tie), where shown."""

    ranking = models.ForeignKey(Ranking, models.CASCADE, related_name="places")
    sample = models.ForeignKey(Sample, models.PROTECT, related_name="places")
    group = models.PositiveSmallIntegerField()
    shown = models.PositiveSmallIntegerField()

    class Meta:
        ordering: ClassVar = ["ranking", "group", "shown"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["ranking", "sample"], name="place_once"),
            models.UniqueConstraint(fields=["ranking", "shown"], name="place_shown_once"),
            models.CheckConstraint(condition=Q(group__lte=8) & Q(shown__lte=8), name="place_k"),
        ]

    def __str__(self) -> str:
        return f"{self.sample} in group {self.group}"
