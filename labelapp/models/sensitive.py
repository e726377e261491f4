"""Content that some people would rather not read: what prompts are marked with."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Sensitive(models.TextChoices):
    SEXUAL = "sexual", "Sexual content"
    VIOLENCE = "violence", "Violence"
    SELF_HARM = "self_harm", "Self-harm"
    HATE = "hate", "Hate"


CATEGORIES = ["sexual", "violence", "self_harm", "hate"]


def categories_field(help_text: str) -> "ArrayField[list[str], list[str]]":
    """A set of categories; each model that has one constrains it to ``CATEGORIES``."""
    return ArrayField(
        models.CharField(max_length=12, choices=Sensitive), default=list, help_text=help_text
    )
