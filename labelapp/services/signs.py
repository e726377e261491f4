"""Signs of life of the worker processes."""

from django.utils import timezone

from labelapp.models import WorkerSign


def worker_sign_record(*, kind: str, host: str) -> None:
    """A process of this kind is alive on this host now; kinds that nobody asks about are ignored."""
    if kind in WorkerSign.Kind.values:
        WorkerSign.objects.update_or_create(
            kind=kind, host=host, defaults={"seen_at": timezone.now()}
        )
