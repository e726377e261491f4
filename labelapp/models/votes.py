"""Votes: which of two answers is better. A label like the others, but never trained on."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from labelapp.models.assignments import Assignment, Task
from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.samples import Sample
from labelapp.models.versions import Label, LabelQuerySet, version_chain


class Vote(Label):
    """One labeler's choice between the two answers of a pair, with the side that each stood on.

    A trigger sees to it that they are the task's two answers, of two versions, as they were shown;
    and that nobody corrects a vote of a round that shows who wrote which.
    """

    class Choice(models.TextChoices):
        LEFT = "left", "The left one is better"
        RIGHT = "right", "The right one is better"
        TIE = "tie", "Equally good"
        BOTH_BAD = "both_bad", "Both are bad"

    project = models.ForeignKey(Project, models.CASCADE, related_name="votes")
    task = models.ForeignKey(Task, models.PROTECT, related_name="votes")
    assignment = models.ForeignKey(Assignment, models.PROTECT, related_name="voted")
    labeler = models.ForeignKey(User, models.PROTECT, related_name="votes")
    left = models.ForeignKey(Sample, models.PROTECT, related_name="voted_left")
    right = models.ForeignKey(Sample, models.PROTECT, related_name="voted_right")
    choice = models.CharField(max_length=8, choices=Choice)
    client_id = models.UUIDField(unique=True)
    active_ms = models.PositiveIntegerField(null=True)
    idle_ms = models.PositiveIntegerField(null=True)
    surplus = models.BooleanField(default=False)
    simulated = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = LabelQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            *version_chain("vote"),
            models.UniqueConstraint(fields=["task", "labeler", "version"], name="vote_once"),
            models.CheckConstraint(
                condition=Q(choice__in=["left", "right", "tie", "both_bad"]), name="vote_choice"
            ),
            models.CheckConstraint(condition=~Q(left=F("right")), name="vote_on_two"),
        ]
        indexes: ClassVar = [models.Index(fields=["project", "id"], name="vote_list")]

    def __str__(self) -> str:
        return f"vote {self.choice} on {self.task}"
