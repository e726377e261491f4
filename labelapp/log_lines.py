"""What is logged: one plain line each, to stdout."""

from typing import Any


def log_config(level: str) -> dict[str, Any]:
    """Django's LOGGING for a level; libraries that would say too much are quieter."""
    quiet = "DEBUG" if level == "DEBUG" else "WARNING"
    # three lines for every sweep, every ten seconds
    sweeps = ("celery.worker.strategy", "celery.app.trace", "celery.beat")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}
        },
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "plain",
            }
        },
        "root": {"handlers": ["stdout"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "propagate": True},
            "axes": {"level": "WARNING"},
            **{name: {"level": quiet} for name in sweeps},
            "httpx": {"level": "WARNING"},
        },
    }
