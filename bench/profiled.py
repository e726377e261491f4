"""``python -m bench.profiled FILE STAGE --config FILE``: a stage of the trainer under torch's profiler.

Writes the operators by their own time; the run is for looking at, never for timing.
"""

import sys
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from trainer.__main__ import main

ROWS = 30


def run(table: Path, argv: list[str]) -> int:
    """The stage's exit code."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        code = main(argv)
    found = recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(found + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
