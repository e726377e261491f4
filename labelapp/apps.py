"""The one Django application."""

from django.apps import AppConfig


class LabelappConfig(AppConfig):
    """Registers the deployment checks."""

    name = "labelapp"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from labelapp import checks  # noqa: F401  (importing registers them)
