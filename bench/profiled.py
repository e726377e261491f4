"""``python -m bench.profiled FILE STAGE --config FILE``: a stage of the trainer under torch's profiler.

Writes what share of the time each kind of operator takes, then the operators by their own time; the
run is for looking at, never for timing.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from trainer.__main__ import main

ROWS = 30
KINDS = {
    "matrix products": ("mm", "linear", "matmul", "addmv"),
    "attention": ("attention", "scaled_dot_product"),
    "AdamW": ("adam",),
    "compiled code": ("compiled",),
    "copies, casts, new memory": (
        "copy", "clone", "empty", "zero", "fill", "::cat", "::stack", "index", "gather", "scatter",
        "::to", "resize", "contiguous", "masked_", "nonzero", "::slice", "new_", "expand", "view",
    ),
    "noise": ("uniform", "random", "exponential", "bernoulli", "normal_"),
}  # fmt: skip
"""Of an operator's name, parts that say its kind; the first kind that fits counts."""
REST = "element by element, norms, sums"


def kind_of(name: str) -> str:
    """Of an operator."""
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in lower for p in parts)), REST)


def shares(operators: Iterable[Any]) -> dict[str, float]:
    """Of all time that operators took themselves, by kind, the largest first."""
    taken: dict[str, float] = {}
    for one in operators:
        kind = kind_of(one.key)
        taken[kind] = taken.get(kind, 0.0) + one.self_cpu_time_total
    whole = sum(taken.values())
    return {kind: time / whole for kind, time in sorted(taken.items(), key=lambda item: -item[1])}


def run(table: Path, argv: list[str]) -> int:
    """The stage's exit code."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        code = main(argv)
    found = recorded.key_averages()
    lines = [f"{share:6.1%}  {kind}" for kind, share in shares(found).items()]
    lines += ["", found.table(sort_by="self_cpu_time_total", row_limit=ROWS), ""]
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(lines), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
