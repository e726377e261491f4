"""People: who signs in, and what each may do in which project."""

from typing import ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from labelapp.models.projects import Project
from labelapp.models.sensitive import CATEGORIES, categories_field


class User(AbstractUser):
    """A person, or a simulated labeler that signs in like one."""

    simulated = models.BooleanField(default=False, help_text="Not a person: drawn by a program.")

    keys = models.JSONField(default=dict, help_text="Action -> key, where it is not the first one.")
    bare_keys = models.BooleanField(default=True, help_text="Single keys do something on a task.")

    language = models.CharField(
        max_length=8, blank=True, default="", help_text="Of the pages; empty: as the browser asks."
    )

    avoids = categories_field("Sensitive content that this person is given no tasks with.")

    class Meta(AbstractUser.Meta):
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(avoids__contained_by=CATEGORIES), name="user_avoids"
            ),
            models.CheckConstraint(
                condition=Q(language__in=["", *dict(settings.LANGUAGES)]), name="user_language"
            ),
        ]

    def __str__(self) -> str:
        return self.get_full_name() or self.username


class Role(models.TextChoices):
    LABELER = "labeler", _("Labeler")
    RESEARCHER = "researcher", _("Researcher")
    ADMIN = "admin", _("Admin")


class Membership(models.Model):
    """One person's one role in one project."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["user__username"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "user"], name="membership_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class Invite(models.Model):
    """A link that makes its first visitor a member. Only the token's hash is kept."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="invites")
    role = models.CharField(max_length=16, choices=Role)
    token_sha256 = models.CharField(max_length=64, unique=True)
    note = models.CharField(max_length=120, blank=True, help_text="For whom it is meant.")
    created_by = models.ForeignKey(User, models.PROTECT, related_name="invites_made")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="invites_used")
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(role__in=Role.values), name="invite_role"),
        ]

    def __str__(self) -> str:
        return f"invite of a {self.role} to {self.project}"

    @property
    def live(self) -> bool:
        """Whether the link still works."""
        return self.used_at is None and self.expires_at > timezone.now()


class ApiToken(models.Model):
    """A labeler's key to the labeling API of one project. Only its hash is kept; it expires."""

    class Scope(models.TextChoices):
        LABEL = "label", _("Take and hand in tasks")

    project = models.ForeignKey(Project, models.CASCADE, related_name="tokens")
    user = models.ForeignKey(User, models.CASCADE, related_name="tokens")
    scope = models.CharField(max_length=16, choices=Scope, default=Scope.LABEL)
    token_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(scope__in=["label"]), name="token_scope"),
        ]

    def __str__(self) -> str:
        return f"token of {self.user} for {self.project}"
