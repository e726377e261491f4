"""The one list of processes: `make demo` runs them, docker-compose.yml is tested against them, /readyz asks for them."""

import sys
from dataclasses import dataclass

STAGE_STOP_SECONDS = 30
"""How long a stage may take to write its checkpoint when asked to stop; then its worker ends it."""


@dataclass(frozen=True)
class Process:
    """One kind of process of the product."""

    name: str
    """Also the Celery node name, by which a sign of life is told apart."""
    command: tuple[str, ...]
    """Module and arguments after `python -m`; the same words run in the demo and in production."""
    stop_seconds: int
    """How long it may take to end when asked; whatever it leaves is taken up by others."""
    gives_signs: bool = True
    """Whether it writes signs of life (labelapp/celery.py)."""
    needed: bool = True
    """Whether the demo gives up when it cannot be kept up; else it is tried again now and then."""

    @property
    def arguments(self) -> list[str]:
        """The whole command line, with the Python that runs now."""
        return [sys.executable, "-m", *self.command]


def _worker(name: str, queue: str, concurrency: str) -> tuple[str, ...]:
    """Threads, so that a killed worker is gone in one piece, and a busy one still gives signs of life."""
    return (
        *("celery", "--quiet", "-A", "labelapp", "worker", "--pool", "threads"),
        *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        *("--queues", queue, "--hostname", f"{name}@%h", "--concurrency", concurrency),
    )


PROCESSES = (
    Process(
        "web",
        ("gunicorn", "--config", "python:labelapp.webserver", "labelapp.wsgi:application"),
        stop_seconds=10,
        gives_signs=False,
    ),
    Process("worker", _worker("worker", "default", "2"), stop_seconds=5),
    Process(
        "worker-gpu",
        _worker("worker-gpu", "gpu", "1"),
        stop_seconds=STAGE_STOP_SECONDS + 10,  # its run then goes back to the queue
    ),
    Process(
        "beat",
        ("celery", "--quiet", "-A", "labelapp", "beat", "--loglevel", "INFO"),
        stop_seconds=5,
    ),
    Process("serve", ("labelapp.serve",), stop_seconds=5, gives_signs=False, needed=False),
)

PREPARATIONS: tuple[tuple[str, ...], ...] = (
    ("check",),
    ("migrate", "--noinput"),
    ("collectstatic", "--noinput"),
)
"""What `manage.py` does before the processes start, in this order."""
