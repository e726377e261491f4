"""Stage ``sample``: draw K completions of every prompt of a snapshot, chunk by chunk.

Each chunk of prompts is a folder with a manifest of its own, complete as soon as that is there,
so that labelers need not wait for the last one; a run that was stopped skips what is complete.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer import distributed
from trainer.config import SampleConfig
from trainer.data import Check
from trainer.errors import DataError, ModelError
from trainer.generate import generate, load_generator
from trainer.records import (
    MANIFEST,
    ROWS,
    SCHEMA_VERSION,
    Manifest,
    Parent,
    PromptRow,
    SampleRow,
    check_same,
    read_manifest,
    read_rows,
    write_rows,
)
from trainer.stage_io import Run, folder_files, parent_of, set_threads
from trainer.text import Codec


class Sampler(NamedTuple):
    """The policy, ready to answer."""

    model: Any
    codec: Codec
    longest_prompt: int  # in tokens; longer ones are skipped


class Answered(NamedTuple):
    """Some prompts and the answers to those that are not too long."""

    prompts: list[tuple[PromptRow, list[int]]]  # with their ids
    rows: list[SampleRow]  # k of each, prompt by prompt
    skipped: int


def run(config: SampleConfig, run: Run) -> None:
    """Write every chunk that is not there yet, then the manifest over all of them."""
    set_threads(config.threads)
    parents = (
        parent_of("policy", config.model),
        parent_of("prompts", config.prompts),
    )
    prompts = list(read_rows(Path(config.prompts) / ROWS, PromptRow))
    if not prompts:
        raise DataError(f"{config.prompts} has no prompts to answer.")
    chunks = [prompts[i : i + config.chunk] for i in range(0, len(prompts), config.chunk)]
    sampler = None
    done: list[Manifest] = []
    for number, chunk in enumerate(chunks):
        folder = run.out / "chunks" / f"{number:04d}"
        if distributed.from_main((folder / MANIFEST).is_file()):
            done.append(read_manifest(folder, verify=True))
            check_same(done[-1], _settings(config), parents)
            continue
        if run.stopping:
            run.stop()
        sampler = sampler or load_sampler(config)
        done.append(_answer_chunk(config, sampler, chunk, folder, parents, run.check))
        run.log(step=number + 1, total=len(chunks), **done[-1].metrics, answers=done[-1].rows)
    if not distributed.is_main():
        return
    metrics = summed_figures(done)
    run.finish(
        Manifest(
            schema_version=SCHEMA_VERSION,
            kind="sample",
            name=run.out.name,
            rows=sum(manifest.rows for manifest in done),
            files=folder_files(run.out),
            parents=parents,
            settings=_settings(config),
            metrics=metrics,
            notes=skipped_notes(config, metrics["skipped"]),
        )
    )


def load_sampler(config: SampleConfig) -> Sampler:
    """The policy; ModelError if its positions leave no room for a prompt."""
    model = load_generator(config.model, config.precision)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = config.max_prompt_tokens
    if positions is not None:
        room = min(room, positions - config.max_new_tokens)
    if room <= 0:
        raise ModelError(
            f"The model has {positions} positions: lower max_new_tokens from"
            f" {config.max_new_tokens} to leave room for a prompt."
        )
    return Sampler(model, Codec.load(config.model), room)


def draw_answers(
    config: SampleConfig,
    sampler: Sampler,
    prompts: Sequence[PromptRow],
    check: Check,
) -> Answered:
    """``k`` answers to each prompt; ``check`` is called before every token and may raise."""
    encoded = [(row, sampler.codec.encode_prompt(row.prompt)) for row in prompts]
    short = [(row, ids) for row, ids in encoded if len(ids) <= sampler.longest_prompt]
    names = [(row, index) for row, _ in short for index in range(config.k)]
    mine = distributed.own([len(ids) for _, ids in short])
    with distributed.together():
        drawn = generate(
            sampler.model,
            prompts=[short[i][1] for i in mine],
            keys=[f"{short[i][0].id}/{index}" for i in mine for index in range(config.k)],
            codec_end_ids=sampler.codec.end_ids,
            pad_id=sampler.codec.pad_id,
            seed=config.seed,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            batch=config.batch,
            answers=config.k,
            stopped=sampler.codec.stopped if sampler.codec.stop is not None else None,
            each_step=check,
        )
    places = [i * config.k + index for i in mine for index in range(config.k)]
    completions = distributed.whole(drawn, places)
    rows = [
        SampleRow(
            prompt_id=row.id,
            index=index,
            text=sampler.codec.decode(completion.token_ids),
            token_ids=tuple(completion.token_ids),
            finished=completion.finished,
            seed=config.seed,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
        )
        for (row, index), completion in zip(names, completions, strict=True)
    ]
    return Answered(short, rows, len(prompts) - len(short))


def _answer_chunk(
    config: SampleConfig,
    sampler: Sampler,
    prompts: Sequence[PromptRow],
    folder: Path,
    parents: tuple[Parent, ...],
    check: Check,
) -> Manifest:
    """Draw the answers of one chunk and write its folder, the manifest last."""
    started = time.monotonic()
    answered = draw_answers(config, sampler, prompts, check)
    seconds = time.monotonic() - started
    figures = sample_figures(answered, seconds)
    settings = _settings(config)
    return distributed.by_main(
        lambda: write_rows(folder, "sample", answered.rows, parents, settings, figures)
    )


def sample_figures(answered: Answered, seconds: float) -> dict[str, Any]:
    """What it took to draw them."""
    tokens = sum(len(row.token_ids) for row in answered.rows)
    ended = sum(row.finished for row in answered.rows)
    return _figures(tokens, seconds, ended, answered.skipped)


def _figures(tokens: int, seconds: float, finished: int, skipped: int) -> dict[str, Any]:
    """``tokens`` are the sampled ones, ``finished`` the answers that ended by themselves."""
    return {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "finished": finished,
        "skipped": skipped,
    }


def skipped_notes(config: SampleConfig, skipped: int) -> tuple[str, ...]:
    """How many prompts were too long, if any was."""
    limit = f"{config.max_prompt_tokens} tokens or the model's positions"
    return (f"{skipped} prompts longer than {limit} were skipped.",) if skipped else ()


def summed_figures(done: Sequence[Manifest]) -> dict[str, Any]:
    """The figures of all chunks together, those of earlier tries included."""

    def total(name: str) -> Any:
        return sum(manifest.metrics[name] for manifest in done)

    return _figures(total("tokens"), total("seconds"), total("finished"), total("skipped"))


def _settings(config: SampleConfig) -> dict[str, Any]:
    """What makes the samples what they are: no folder, no batch size.

    ``chunk`` is one of them: it says which prompts a chunk has.
    """
    free = {"out", "model", "prompts", "batch", "threads"}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
