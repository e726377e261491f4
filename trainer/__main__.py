"""``python -m trainer STAGE --config FILE``: run one stage; the exit code says how it ended.

The settings name the run folder (``out``); what it holds is told in ``trainer.stage_io``. Exit
codes are those of ``trainer.errors``; 0 is success, also when the folder was finished before.
``python -m trainer fill`` is no stage: it prints what a model would write, and writes nothing.
Nor is ``python -m trainer serve``, which keeps a model loaded and answers over HTTP until SIGTERM.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn, get_args

from trainer import distributed
from trainer.config import SERVE, STAGES, ObjectiveName, ServeConfig, TrainConfig, load_config
from trainer.errors import TrainerError
from trainer.launcher import launched_plan, require_deepspeed
from trainer.precision import settle, warn_where_slow
from trainer.stage_io import open_run

MODULES = {stage: f"trainer.{stage}" for stage in STAGES} | {
    "text": "trainer.draw_text",
    "best": "trainer.best_of_n",
}
OF_ONE_PROCESS = {"base", "text", "fill", SERVE}
"""What more processes would not make faster: the launcher's first one does it."""


def main(argv: list[str] | None = None) -> int:
    """Run the stage that the command line names; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        if args.stage in OF_ONE_PROCESS and distributed.launched_rank() > 0:
            return 0
        if args.stage == "fill":
            _prepare()
            fill = importlib.import_module("trainer.fill")
            fill.run(args.model, args.text, args.top, as_json=args.json)
        elif args.stage == SERVE:
            config = load_config(SERVE, args.config)
            _prepare()
            config = settle(config)
            warn_where_slow(SERVE, config.precision)
            importlib.import_module("trainer.serve").run(config)
        else:
            given = {"objective": args.objective} if getattr(args, "objective", None) else {}
            _run(args.stage, args.config, given)
    except TrainerError as error:
        print(f"{args.stage}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage, settings in STAGES.items():
        summary = (settings.__doc__ or "").split(":")[0]
        command = commands.add_parser(stage, help=summary, description=summary)
        command.add_argument("--config", type=Path, required=True, help="settings, a JSON object")
        if stage == "pretrain":
            names = get_args(ObjectiveName)
            command.add_argument("--objective", choices=names, help="in place of the setting")
    summary = (ServeConfig.__doc__ or "").split(":")[0]
    command = commands.add_parser(SERVE, help=summary, description=summary)
    command.add_argument("--config", type=Path, required=True, help="settings, a JSON object")
    summary = "Show what a model would put at each [MASK] of a text, or next."
    command = commands.add_parser("fill", help=summary, description=summary)
    command.add_argument("--model", required=True, help="folder of a causal or a masked model")
    command.add_argument("--text", required=True, help="with [MASK] for a masked model")
    command.add_argument("--top", type=int, default=10, help="candidates shown (10)")
    command.add_argument("--json", action="store_true", help="one JSON object, not a table")
    return parser


def _run(stage: str, path: Path, given: dict[str, Any]) -> None:
    several = distributed.launched() and stage not in OF_ONE_PROCESS
    if several:
        _prepare()  # before torch, by which they join
    with (
        distributed.joined() if several else nullcontext(),
        open_run(_named_out(path) or load_config(stage, path).out) as run,
    ):
        if run.finished:
            print(f"{run.out} is finished already; nothing to do.", file=sys.stderr)
            return
        config = load_config(stage, path)
        if hasattr(config, "shard"):
            given = launched_plan() | given
        config = dataclasses.replace(config, **given)
        if several and getattr(config, "zero_stage", None):
            require_deepspeed()
        _prepare()
        if hasattr(config, "precision"):
            config = settle(config, run.out)
            warn_where_slow(stage, config.precision)
        if isinstance(config, TrainConfig):
            _ask_for_the_same_twice()
        run.stop_at_once()
        importlib.import_module(MODULES[stage]).run(config, run)


def _named_out(path: Path) -> str | None:
    """The run folder, also of settings that are wrong elsewhere: their error belongs in it."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    out = plain.get("out") if isinstance(plain, dict) else None
    return out if isinstance(out, str) and out else None


def _prepare() -> None:
    """Set what torch and transformers read once, when they are imported.

    OpenMP threads that wait for each other spin by default; where other processes share the
    cores (the web server, a browser) that makes training ten times slower, so they sleep early.
    The libraries' own bars and advice stay out of the run's log. SciPy, which takes a second to
    load, is for transformers' losses of object detection only: it is told that there is none.
    oneDNN and PyTorch keep what they prepared for a thousand shapes of products each; half of that
    holds those that come again (``trainer.padded.rounded``). One compiler at a time leaves the run's peak to training.
    cuBLAS adds up in the same order each time only in a workspace of a stated size.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "512")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TQDM_DISABLE", "1")  # of bars that do not say otherwise
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import utils  # after the environment is set, which it reads

    utils.logging.disable_progress_bar()
    utils.is_scipy_available = lambda: False


def _do_without(*names: str) -> None:
    """Have these modules be missing: what torch and accelerate load where they are installed, 20 MB,
    and no stage uses.
    """
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _ask_for_the_same_twice() -> None:
    """On CUDA, have torch compute in ways that come to the same each time, and warn where it has none."""
    import torch

    from trainer import stack

    if stack.pick_device().type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # filling what nothing reads would only cost time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def leave(code: int) -> NoReturn:
    """End the process. One of several goes at once: at an ordinary end the threads that gloo still has abort it."""
    if distributed.launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _do_without("redis", "rich")
    leave(main())
