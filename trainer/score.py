"""Stage ``score``: what one or several reward models think of answers that were drawn before.

The answers are those of stage ``sample`` (or ``best``), read in the tokens in which they were
drawn; a reward model of another tokenizer reads the text again. One reward model is loaded at a
time, so that it needs no more memory than the largest of them. Each chunk of answers under one
of them is a folder with a manifest of its own; a run that was stopped skips what is complete.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from torch import Tensor

from trainer import distributed
from trainer.config import ScoreConfig
from trainer.data import Check
from trainer.errors import DataError, IntegrityError, NumericError
from trainer.models import ScalarModel
from trainer.reading import Reader, load_scorer, score_ids
from trainer.records import (
    MANIFEST,
    ROWS,
    SCHEMA_VERSION,
    Manifest,
    Parent,
    PromptRow,
    SampleRow,
    ScoreRow,
    check_same,
    read_manifest,
    read_rows,
    write_rows,
)
from trainer.stage_io import Run, folder_files, parent_of, set_threads
from trainer.text import Codec

SCORED = ("sample", "best")
"""Stages whose folders are scored."""
OTHER_TOKENIZER = (
    "Reward model {judge} has another tokenizer than the policy: answers were encoded again for it."
)


class Answer(NamedTuple):
    """An answer with the prompt it is to."""

    prompt: PromptRow
    row: SampleRow


class Judge(NamedTuple):
    """A reward model, and how it reads what the policy wrote."""

    model: ScalarModel
    reader: Reader


def run(config: ScoreConfig, run: Run) -> None:
    """Write every chunk that is not there yet, one reward model after the other, then the manifest."""
    set_threads(config.threads)
    parents = (
        parent_of("policy", config.model),
        parent_of("prompts", config.prompts),
        parent_of("samples", config.samples),
        *(parent_of("reward", folder) for folder in config.rewards),
    )
    answers = read_answers(config, parents)
    chunks = [answers[i : i + config.chunk] for i in range(0, len(answers), config.chunk)]
    total = len(config.rewards) * len(chunks)
    codec: Codec | None = None
    for judge in range(len(config.rewards)):
        loaded: Judge | None = None
        for number, chunk in enumerate(chunks):
            folder = _chunk_folder(run.out, judge, number)
            if distributed.from_main((folder / MANIFEST).is_file()):
                check_same(read_manifest(folder, verify=True), _settings(config), parents)
                continue
            if run.stopping:
                run.stop()
            codec = codec or Codec.load(config.model)
            loaded = loaded or load_judge(config, judge, codec)
            done = _score_chunk(config, judge, loaded, chunk, folder, parents, run.check)
            step = judge * len(chunks) + number + 1
            run.log(step=step, total=total, answers=done.rows, **done.metrics)
    if distributed.is_main():
        _finish(config, run, parents, len(chunks))


# ---- the answers ----------------------------------------------------------------------------


def read_answers(config: ScoreConfig, parents: Sequence[Parent]) -> list[Answer]:
    """Every answer with its prompt, in the order in which they were drawn.

    IntegrityError if they are unfinished, altered, of another stage, or were drawn from other
    prompts or by another policy than the settings name; DataError, naming chunk, line and field,
    if a row is malformed or answers a prompt that is not there.
    """
    folder = Path(config.samples)
    manifest = read_manifest(folder, verify=True)
    if manifest.kind not in SCORED:
        raise IntegrityError(
            f"{folder} is of stage {manifest.kind}; answers of stage sample are scored."
        )
    drawn_from = {parent.role: parent.sha256 for parent in manifest.parents}
    for parent in parents:
        if parent.role in ("policy", "prompts") and drawn_from.get(parent.role) != parent.sha256:
            raise IntegrityError(
                f"The answers in {folder} were not drawn with the {parent.role} {parent.name} of the"
                " settings."
            )
    prompts = {row.id: row for row in read_rows(Path(config.prompts) / ROWS, PromptRow)}
    files = sorted(name for name in manifest.files if PurePosixPath(name).name == ROWS)
    answers = [
        answer
        for name in files
        if name.startswith("chunks/")
        for answer in _answers_of(folder, name, prompts)
    ]
    if not answers:
        raise DataError(f"{folder} has no answers to score.")
    if len({(row.prompt_id, row.index) for _, row in answers}) < len(answers):
        raise DataError(f"{folder} has two answers of one prompt with the same index.")
    return answers


def _answers_of(folder: Path, name: str, prompts: dict[str, PromptRow]) -> list[Answer]:
    try:
        rows = list(read_rows(folder / name, SampleRow))
    except DataError as error:
        raise DataError(f"{PurePosixPath(name).parent}: {error}") from None
    for line, row in enumerate(rows, 1):
        if row.prompt_id not in prompts:
            raise DataError(
                f"{name} line {line} answers the prompt {row.prompt_id!r}, which is not among the"
                " prompts of the settings."
            )
    return [Answer(prompts[row.prompt_id], row) for row in rows]


# ---- the scores -----------------------------------------------------------------------------


def load_judge(config: ScoreConfig, judge: int, codec: Codec) -> Judge:
    """One of the reward models, for scoring only; ``codec`` is the policy's."""
    folder = config.rewards[judge]
    model = load_scorer(folder, config.precision)
    return Judge(model, Reader(codec, Codec.load(folder), model.stack.positions))


def score_answers(
    config: ScoreConfig, judge: Judge, answers: Sequence[Answer], check: Check
) -> Tensor:
    """Scores [N] of N answers; ``check`` is called before each micro-batch, and may raise."""
    reader = judge.reader
    ids = [
        reader.ids(
            prompt.prompt,
            reader.policy.encode_prompt(prompt.prompt),
            row.token_ids,
            finished=row.finished,
        )
        for prompt, row in answers
    ]
    return score_ids(judge.model, ids, reader.reward.pad_id, config.micro_tokens, check)


def _score_chunk(
    config: ScoreConfig,
    judge: int,
    loaded: Judge,
    answers: Sequence[Answer],
    folder: Path,
    parents: tuple[Parent, ...],
    check: Check,
) -> Manifest:
    """Score one chunk and write its folder, the manifest last."""
    started = time.monotonic()
    scores = score_answers(config, loaded, answers, check).tolist()
    rows = [
        ScoreRow(prompt_id=row.prompt_id, index=row.index, judge=judge, score=score)
        for (_, row), score in zip(answers, scores, strict=True)
    ]
    for row in rows:
        if not math.isfinite(row.score):
            raise NumericError(
                f"The reward model {config.rewards[judge]} scores answer {row.index} to prompt"
                f" {row.prompt_id} with {row.score}: it cannot be used as a judge."
            )
    figures = {
        "judge": judge,
        "mean": math.fsum(scores) / len(scores),
        "seconds": round(time.monotonic() - started, 3),
        "reads_tokens": loaded.reader.reads_tokens,
    }
    settings = _settings(config)
    return distributed.by_main(
        lambda: write_rows(folder, "score", rows, parents, settings, figures)
    )


# ---- all chunks together --------------------------------------------------------------------


def _finish(config: ScoreConfig, run: Run, parents: tuple[Parent, ...], chunks: int) -> None:
    means, notes = list[float](), list[str]()
    seconds, rows = 0.0, 0
    for judge in range(len(config.rewards)):
        done = [read_manifest(_chunk_folder(run.out, judge, number)) for number in range(chunks)]
        scored = sum(manifest.rows for manifest in done)
        means.append(sum(m.metrics["mean"] * m.rows for m in done) / scored)
        seconds += sum(manifest.metrics["seconds"] for manifest in done)
        rows += scored
        if not done[0].metrics["reads_tokens"]:
            notes.append(OTHER_TOKENIZER.format(judge=judge))
    run.finish(
        Manifest(
            schema_version=SCHEMA_VERSION,
            kind="score",
            name=run.out.name,
            rows=rows,
            files=folder_files(run.out),
            parents=parents,
            settings=_settings(config),
            metrics={"answers": rows // len(means), "means": means, "seconds": round(seconds, 3)},
            notes=tuple(notes),
        )
    )


def _chunk_folder(out: Path, judge: int, number: int) -> Path:
    return out / "chunks" / f"{judge:02d}-{number:04d}"


def _settings(config: ScoreConfig) -> dict[str, Any]:
    """What makes the scores what they are: no folder, no batch size.

    ``chunk`` is one of them: it says which answers a chunk has.
    """
    free = {"out", "model", "rewards", "prompts", "samples", "threads", "micro_tokens"}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
