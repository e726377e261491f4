"""What is handed in: when it counts, and which version of it a row is.

Shared by labels and by the prompts that labelers write. Never edited, and deleted only by being
taken back before it settles: a trigger refuses both. A correction is a new row, the next version
of the same assignment's work; the first is kept.
"""

from typing import TypeVar

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

L = TypeVar("L", bound="Label")


class LabelQuerySet(models.QuerySet[L]):
    def settled(self) -> "LabelQuerySet[L]":
        """Those that count: no longer to be taken back, by the database's clock."""
        return self.filter(settles_at__lte=Now())

    def current(self) -> "LabelQuerySet[L]":
        """Of each assignment the latest version that counts; and what no assignment brought."""
        later = self.model._default_manager.filter(
            Q(version__gt=1),  # said for the planner: few rows are corrections
            assignment=OuterRef("assignment"),
            version__gt=OuterRef("version"),
            settles_at__lte=Now(),
        )
        return self.settled().filter(~Exists(later))


class Label(models.Model):
    """What all that is handed in shares: when it counts, and which version it is."""

    settles_at = models.DateTimeField(
        db_default=Now(), help_text="From then on it counts, and cannot be taken back."
    )
    version = models.PositiveSmallIntegerField(default=1, db_default=1)
    corrects = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        related_name="corrections",
        help_text="The first version, which is kept.",
    )

    class Meta:
        abstract = True


def version_chain(name: str) -> list[models.BaseConstraint]:
    """One chain of versions an assignment; a trigger sees to it that it has no gaps."""
    return [
        models.UniqueConstraint(fields=["assignment", "version"], name=f"{name}_version_once"),
        models.CheckConstraint(
            condition=Q(version=1, corrects__isnull=True)
            | Q(version__gt=1, corrects__isnull=False),
            name=f"{name}_version_chain",
        ),
    ]
