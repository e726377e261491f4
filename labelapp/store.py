"""Where files lie. Everything is under LABELAPP_STORE; rows of the database hold names, never paths.

snapshots/<kind>-<hash>/   rows.jsonl, manifest.json          frozen
runs/<run id>/             config.json, log.txt (ours); metrics.jsonl, checkpoints/, chunks/,
                           model/, error.json, manifest.json  (the stage's)
device.lock                                                   held while a stage runs
"""

import math
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings


def snapshot_folder(name: str) -> Path:
    """Where the snapshot of that name lies."""
    return Path(settings.LABELAPP_STORE) / "snapshots" / name


def run_folder(run_id: UUID) -> Path:
    """Where a run writes."""
    return Path(settings.LABELAPP_STORE) / "runs" / str(run_id)


def model_folder(run_id: UUID) -> Path:
    """The Hugging Face folder that a finished run left."""
    return run_folder(run_id) / "model"


def device_lock() -> Path:
    """Held locked by every GPU worker while it runs a stage; `labelapp.serve` then says "later"."""
    return Path(settings.LABELAPP_STORE) / "device.lock"


def finite(value: Any) -> Any:
    """JSON that PostgreSQL takes: what is not finite becomes null, NUL characters go."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def clean_text(text: str) -> str:
    """Text that PostgreSQL takes: no NUL, no half of a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
