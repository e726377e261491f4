"""Stage ``text``: running text drawn from the base model, where no pretraining text is at hand."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.config import TextConfig
from trainer.data import Check
from trainer.errors import ModelError
from trainer.generate import generate, load_generator
from trainer.records import SCHEMA_VERSION, Manifest, write_atomic
from trainer.stage_io import Run, folder_files, parent_of, set_threads
from trainer.text import Codec

STAND_IN = "This text was drawn from the base model and stands in for real pretraining text."
_TRIES = 8  # of a document that came out empty


def run(config: TextConfig, run: Run) -> None:
    """Write text/NNNN.txt, one document a file, then the manifest."""
    set_threads(config.threads)
    parents = (parent_of("policy", config.model),)
    codec = Codec.load(config.model)
    if not codec.start_ids:
        raise ModelError(f"The tokenizer of {config.model} has no token that starts a text.")
    model = None
    starts = range(0, config.documents, config.batch)
    # What an earlier try drew counts in the totals.
    before = {line["step"]: line["values"] for line in run.lines()}
    tokens, seconds = 0, 0.0
    for step, start in enumerate(starts, 1):
        paths = [
            _path(run.out, i) for i in range(start, min(start + config.batch, config.documents))
        ]
        if step in before and all(path.is_file() for path in paths):
            tokens, seconds = before[step]["tokens"], before[step]["seconds"]
            continue
        run.check()
        started = time.monotonic()
        model = model or load_generator(config.model, config.precision)
        tokens += _draw(config, model, codec, paths, run.check)
        seconds += time.monotonic() - started
        run.log(step=step, total=len(starts), **_figures(tokens, seconds))
    run.finish(
        Manifest(
            schema_version=SCHEMA_VERSION,
            kind="text",
            name=run.out.name,
            rows=config.documents,
            files=folder_files(run.out),
            parents=parents,
            settings={
                k: v
                for k, v in dataclasses.asdict(config).items()
                if k not in ("out", "model", "batch", "threads")
            },
            metrics=_figures(tokens, seconds),
            notes=(STAND_IN,),
        )
    )


def _path(out: Path, number: int) -> Path:
    return out / "text" / f"{number:04d}.txt"


def _draw(config: TextConfig, model: Any, codec: Codec, paths: Sequence[Path], check: Check) -> int:
    """Write these documents; returns the number of tokens drawn. An empty one is drawn anew."""
    missing, tokens = list(paths), 0
    for attempt in range(_TRIES):
        drawn = generate(
            model,
            prompts=[codec.start_ids] * len(missing),
            keys=[f"text/{path.stem}/{attempt}" for path in missing],
            codec_end_ids=codec.end_ids | set(codec.start_ids),
            pad_id=codec.pad_id,
            seed=config.seed,
            temperature=1.0,
            max_new_tokens=config.max_new_tokens,
            batch=config.batch,
            each_step=check,
        )
        empty = []
        for path, completion in zip(missing, drawn, strict=True):
            tokens += len(completion.token_ids)
            text = codec.decode_text(completion.token_ids)
            if text:
                write_atomic(path, [text, "\n"])
            else:
                empty.append(path)
        missing = empty
        if not missing:
            return tokens
    raise ModelError("The model draws only empty texts; give pretraining text of your own.")


def _figures(tokens: int, seconds: float) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
    }
