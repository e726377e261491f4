"""What labelers tell the admins: flags on a task, and one thread of notes an assignment."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from labelapp.models.assignments import Assignment
from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.samples import Sample


class Flag(models.Model):
    """Something is wrong with a task, or with one of its answers."""

    class Category(models.TextChoices):
        UNREADABLE = "unreadable", _("Unreadable")
        PERSONAL = "personal", _("Personal data")
        HARMFUL = "harmful", _("Harmful")
        LANGUAGE = "language", _("Wrong language")
        OTHER = "other", _("Something else")

    project = models.ForeignKey(Project, models.CASCADE, related_name="flags")
    assignment = models.ForeignKey(Assignment, models.PROTECT, related_name="flags")
    sample = models.ForeignKey(Sample, models.PROTECT, null=True, related_name="flags")
    category = models.CharField(max_length=12, choices=Category)
    words = models.CharField(max_length=500, blank=True)
    client_id = models.UUIDField(unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True)
    resolved_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="flags_resolved")

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["assignment", "category", "sample"],
                condition=Q(resolved_at__isnull=True) & ~Q(category="other"),
                nulls_distinct=False,
                name="flag_open_once",
            ),
            models.CheckConstraint(
                condition=Q(category__in=["unreadable", "personal", "harmful", "language"])
                | (Q(category="other") & ~Q(words="")),
                name="flag_category",
            ),
            models.CheckConstraint(
                condition=Q(resolved_at__isnull=True, resolved_by__isnull=True)
                | Q(resolved_at__isnull=False, resolved_by__isnull=False),
                name="flag_resolved_by_someone",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["project", "id"],
                condition=Q(resolved_at__isnull=True),
                name="flag_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.category} on {self.assignment}"


class Thread(models.Model):
    """One labeler's questions about one task, and the admins' answers."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="threads")
    assignment = models.OneToOneField(Assignment, models.PROTECT, related_name="thread")
    labeler = models.ForeignKey(User, models.PROTECT, related_name="threads")
    waiting = models.BooleanField(default=True, help_text="The labeler waits for an answer.")
    unseen = models.BooleanField(default=False, help_text="The labeler has not seen an answer.")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["updated_at"]
        indexes: ClassVar = [
            models.Index(
                fields=["project", "updated_at"], condition=Q(waiting=True), name="thread_waiting"
            ),
            models.Index(
                fields=["labeler", "project"], condition=Q(unseen=True), name="thread_unseen"
            ),
        ]

    def __str__(self) -> str:
        return f"thread on {self.assignment}"


class Note(models.Model):
    """One message of a thread. Never edited."""

    thread = models.ForeignKey(Thread, models.CASCADE, related_name="notes")
    author = models.ForeignKey(User, models.PROTECT, related_name="notes")
    text = models.TextField()
    client_id = models.UUIDField(unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=~Q(text=""), name="note_not_empty"),
        ]

    def __str__(self) -> str:
        return self.text[:60]
