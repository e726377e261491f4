"""Which precision a run computes in, where its settings leave that to the machine."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from trainer import distributed
from trainer.config import Precision
from trainer.errors import IntegrityError
from trainer.records import write_atomic

AUTO: Precision = "auto"
KEPT = "precision"
"""The file of a run folder that holds what ``auto`` came to."""


def settle(config: Any, out: Path | None = None) -> Any:
    """Settings of a stage or of serve, with the precision that is meant where they say ``auto``.

    bf16 where the first process has instructions for it, else fp32. A run keeps it in its folder,
    so that it goes on in the same on any machine. IntegrityError if that file is damaged.
    """
    if config.precision != AUTO:
        return config
    chosen = distributed.by_main(lambda: _kept(out) or _chosen(out))
    return dataclasses.replace(config, precision=chosen)


def warn_where_slow(stage: str, precision: Precision) -> None:
    """Say so where bf16 was asked for and the processor has no instructions for it."""
    if precision == "bf16" and distributed.is_main() and not _has_bf16():
        print(
            f"{stage}: this processor has no instructions for bf16, which takes several times as"
            ' long as fp32 here: set "precision": "auto".',
            file=sys.stderr,
        )


def _kept(out: Path | None) -> Precision | None:
    if out is None or not (out / KEPT).is_file():
        return None
    found = (out / KEPT).read_text(encoding="utf-8").strip()
    if found in ("bf16", "fp32"):
        return found  # type: ignore[return-value]
    raise IntegrityError(
        f"{out / KEPT} holds {found!r}. Write the precision there that the run began with, fp32 or"
        " bf16, or give the run a new folder."
    )


def _chosen(out: Path | None) -> Precision:
    chosen: Precision = "bf16" if _has_bf16() else "fp32"
    if out is not None:
        write_atomic(out / KEPT, [f"{chosen}\n"])
    return chosen


def _has_bf16() -> bool:
    from trainer import stack  # torch, which is imported when all is set

    return stack.has_bf16(stack.pick_device())
