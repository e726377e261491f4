"""Content that some people would rather not read: what prompts are marked with."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _


class Sensitive(models.TextChoices):
    SEXUAL = "sexual", _("Sexual content")
    VIOLENCE = "violence", _("Violence")
    SELF_HARM = "self_harm", _("Self-harm")
    HATE = "hate", _("Hate")


CATEGORIES = ["sexual", "violence", "self_harm", "hate"]


def categories_field(help_text: str) -> "ArrayField[list[str], list[str]]":
    """A set of categories; each model that has one constrains it to ``CATEGORIES``."""
    return ArrayField(
        models.CharField(max_length=12, choices=Sensitive), default=list, help_text=help_text
    )
