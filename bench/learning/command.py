"""The command line that the learning scripts share, and the object that they write."""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.common import more_settings
from bench.learning import report
from bench.learning.units import Sizes, sizes_of
from bench.measure import ROOT, stoppable
from bench.report import machine
from trainer.records import write_atomic


def arguments(
    doc: str, name: str, budgets: Mapping[str, Any], argv: list[str] | None
) -> argparse.Namespace:
    """Parse; with ``--report`` print the tables of what is there and end."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=os.environ.get("LABELAPP_DATA"),
        help="folder of the public data sets ($LABELAPP_DATA)")  # fmt: skip
    add("--json", type=Path, required=True, help="write the figures there")
    add("--report", action="store_true", help="only print the tables of the figures in --json")
    add("--budget", choices=sorted(budgets), default="full", help="sizes (full)")
    add("--set", nargs="+", default=[], metavar="NAME=JSON", help=f"other sizes: {_names(budgets)}")
    add("--model", type=Path, help="a model folder in place of the script's own")
    add("--threads", type=int, default=0, help="of torch; 0 leaves its default")
    add("--work", type=Path, default=ROOT / "var" / "bench" / "learning",
        help="folder for what is made; a script started again goes on from there")  # fmt: skip
    add("--results", type=Path, help="folder in which finished units are looked for and kept"
        " (one under --work); docs/results holds those of docs/results.md")  # fmt: skip
    args = parser.parse_args(argv)
    if args.report:
        print(report.tables(json.loads(args.json.read_text(encoding="utf-8"))))
        raise SystemExit(0)
    if args.data is None:
        raise SystemExit("Name the folder of the public data sets: --data, or set LABELAPP_DATA.")
    args.data = Path(args.data).resolve()
    if not args.data.is_dir():
        raise SystemExit(f"{args.data} is no folder: name that of the public data sets by --data.")
    args.work = args.work.resolve() / f"{name}-{args.budget}"
    if args.results is not None:
        args.results = args.results.resolve() / args.work.name
    if args.model is not None:
        args.model = args.model.resolve()
    stoppable()
    _quiet()
    return args


def _quiet() -> None:
    """Only our own lines: no bars, no reports of what a library loads."""
    from transformers.utils import logging  # after --report, which needs none of it

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _names(budgets: Mapping[str, Any]) -> str:
    return ", ".join(vars(next(iter(budgets.values()))))


def sizes(args: argparse.Namespace, budgets: Mapping[str, Sizes]) -> Sizes:
    """The sizes of the command line."""
    return sizes_of(budgets, args.budget, more_settings(args.set))


def publish(args: argparse.Namespace, name: str, chosen: Any, found: Mapping[str, Any]) -> None:
    """Write the object and print its tables."""
    settings = asdict(chosen) | {
        "budget": args.budget,
        "threads": args.threads or "default",
        "model": args.model.name if args.model else "drawn on the spot, taught by the script",
        "machine": machine(),
    }
    whole = {"script": name, "settings": settings, **found}
    write_atomic(args.json, [json.dumps(whole, indent=1), "\n"])
    print(report.tables(whole))
