"""Labels: demonstrations and rankings, in versions that are kept (see versions.py).

Votes on pairs stand beside, in votes.py.
"""

from typing import ClassVar

from django.db import models
from django.db.models import BooleanField, F, Func, Q, Value
from django.utils.translation import gettext_lazy as _

from labelapp.models.assignments import Assignment, Task
from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.prompts import Prompt
from labelapp.models.rating_fields import HIGHEST, LOWEST
from labelapp.models.samples import Sample
from labelapp.models.versions import Label, LabelQuerySet, version_chain


class Demonstration(Label):
    """A completion that a person wrote, here or in an uploaded file."""

    class Source(models.TextChoices):
        LABELER = "labeler", _("Labeler")
        UPLOAD = "upload", _("Upload")

    project = models.ForeignKey(Project, models.CASCADE, related_name="demonstrations")
    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="demonstrations")
    assignment = models.ForeignKey(Assignment, models.PROTECT, null=True, related_name="written")
    labeler = models.ForeignKey(User, models.PROTECT, null=True, related_name="demonstrations")
    source = models.CharField(max_length=8, choices=Source)
    text = models.TextField()
    client_id = models.UUIDField(null=True, unique=True)
    active_ms = models.PositiveIntegerField(null=True)
    idle_ms = models.PositiveIntegerField(null=True)
    surplus = models.BooleanField(default=False)
    simulated = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = LabelQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            *version_chain("demonstration"),
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

    @property
    def before_ranking(self) -> bool:
        """Whether it is what a labeler wrote before they see the answers they rank."""
        return self.assignment is not None and self.assignment.task.kind == Task.Kind.RANKING


class Ranking(Label):
    """One labeler's ranking of the answers of one task."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="rankings")
    task = models.ForeignKey(Task, models.PROTECT, related_name="rankings")
    assignment = models.ForeignKey(Assignment, models.PROTECT, related_name="ranked")
    labeler = models.ForeignKey(User, models.PROTECT, related_name="rankings")
    client_id = models.UUIDField(unique=True)
    all_bad = models.BooleanField(default=False, help_text="None of the answers is acceptable.")
    strength = models.PositiveSmallIntegerField(
        null=True, help_text="How much better the best is than the worst: 1 hardly, 4 by far."
    )
    active_ms = models.PositiveIntegerField(null=True)
    idle_ms = models.PositiveIntegerField(null=True)
    surplus = models.BooleanField(default=False)
    simulated = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = LabelQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            *version_chain("ranking"),
            models.UniqueConstraint(fields=["task", "labeler", "version"], name="ranking_once"),
            models.CheckConstraint(
                condition=Q(strength__isnull=True) | Q(strength__gte=1, strength__lte=4),
                name="ranking_strength",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["project", "id"], name="ranking_list")]

    def __str__(self) -> str:
        return f"ranking {self.pk} of {self.task}"


class RankingPlace(models.Model):
    """Where one answer stands in a ranking: its group (0 best, shared is a tie), where shown.

    No group means that the labeler did not judge it.
    """

    ranking = models.ForeignKey(Ranking, models.CASCADE, related_name="places")
    sample = models.ForeignKey(Sample, models.PROTECT, related_name="places")
    group = models.PositiveSmallIntegerField(null=True)
    shown = models.PositiveSmallIntegerField()

    class Meta:
        ordering: ClassVar = ["ranking", "group", "shown"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["ranking", "sample"], name="place_once"),
            models.UniqueConstraint(fields=["ranking", "shown"], name="place_shown_once"),
            models.CheckConstraint(
                condition=(Q(group__isnull=True) | Q(group__lte=8)) & Q(shown__lte=8),
                name="place_k",
            ),
        ]

    def __str__(self) -> str:
        where = "not judged" if self.group is None else f"in group {self.group}"
        return f"{self.sample} {where}"


def _of_flags(function: str, path: str) -> Func:
    return Func(F("flags"), Value(path), function=function, output_field=BooleanField())


class Rating(models.Model):
    """What a labeler said of one answer alone. Its ranking place says whose, and of which."""

    place = models.OneToOneField(RankingPlace, models.CASCADE, related_name="rating")
    overall = models.PositiveSmallIntegerField(null=True, help_text="1 to 7; null: left blank.")
    flags = models.JSONField(
        default=dict, help_text="Each field that was asked: true, false, or null where left blank."
    )

    class Meta:
        ordering: ClassVar = ["place"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(overall__isnull=True) | Q(overall__gte=LOWEST, overall__lte=HIGHEST),
                name="rating_overall",
            ),
            models.CheckConstraint(
                condition=Q(_of_flags("jsonb_path_match", '$.type() == "object"')),
                name="rating_flags_object",
            ),
            models.CheckConstraint(
                condition=~Q(
                    _of_flags(
                        "jsonb_path_exists", '$.* ? (@.type() != "boolean" && @.type() != "null")'
                    )
                ),
                name="rating_flags_yes_no_blank",
            ),
        ]

    def __str__(self) -> str:
        return f"rating {self.overall} of {self.place}"
