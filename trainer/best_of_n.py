"""Stage ``best``: of n answers to each prompt, the one that the reward model scores highest.

A control that trains nothing: what PPO reaches at some KL is to be held against what choosing
reaches at log n - (n - 1) / n. Chunks are those of stage ``sample``, with one row a prompt, the
best; ``scores.jsonl`` beside them has the scores of all n. As a snapshot of demonstrations the
best answers serve stage ``sft``: rejection sampling.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import distributed, losses
from trainer.config import BestConfig
from trainer.data import Check
from trainer.errors import DataError
from trainer.models import ScalarModel
from trainer.reading import Reader, known_scores, load_scorer, score_ids
from trainer.records import (
    MANIFEST,
    ROWS,
    SCHEMA_VERSION,
    UNLABELED,
    DemonstrationRow,
    Manifest,
    Parent,
    PromptRow,
    SampleRow,
    check_same,
    read_manifest,
    read_rows,
    row_line,
    write_atomic,
    write_manifest,
)
from trainer.runtime import check_finite
from trainer.sample import (
    Answered,
    Sampler,
    draw_answers,
    load_sampler,
    sample_figures,
    skipped_notes,
    summed_figures,
)
from trainer.stage_io import Run, folder_files, parent_of, reward_parents, set_threads
from trainer.text import Codec

SCORES = "scores.jsonl"
DEMONSTRATIONS = "demonstrations"


@dataclasses.dataclass(frozen=True)
class ScoredPrompt:
    """A line of scores.jsonl."""

    prompt_id: str
    split: str
    scores: tuple[float, ...]  # of answers 0 to n - 1


class Judge(NamedTuple):
    """The reward model, and what it reads."""

    model: ScalarModel
    codec: Codec


def run(config: BestConfig, run: Run) -> None:
    """Write every chunk that is not there yet, then what they are together."""
    set_threads(config.threads)
    parents = (
        parent_of("policy", config.model),
        *reward_parents(config.reward, config.reward_function),
        parent_of("prompts", config.prompts),
    )
    prompts = list(read_rows(Path(config.prompts) / ROWS, PromptRow))
    if not prompts:
        raise DataError(f"{config.prompts} has no prompts to answer.")
    chunks = [prompts[i : i + config.chunk] for i in range(0, len(prompts), config.chunk)]
    models = None
    for number, chunk in enumerate(chunks):
        folder = _chunk_folder(run.out, number)
        if distributed.from_main((folder / MANIFEST).is_file()):
            check_same(read_manifest(folder, verify=True), _settings(config), parents)
            continue
        if run.stopping:
            run.stop()
        models = models or (load_sampler(config), load_judge(config))
        done = _answer_chunk(config, *models, chunk, folder, parents, run.check)
        run.log(step=number + 1, total=len(chunks), answers=done.rows, **done.metrics)
    if distributed.is_main():
        _finish(config, run, prompts, parents, len(chunks))


def load_judge(config: BestConfig) -> Judge | None:
    """The reward model, for scoring only; none with a known reward."""
    if config.reward_function is not None:
        return None
    return Judge(load_scorer(config.reward, config.precision), Codec.load(config.reward))


def score_answers(
    config: BestConfig, judge: Judge | None, codec: Codec, answered: Answered, check: Check
) -> Tensor:
    """Scores [P, K] of the K answers to each of P prompts, as stage ``ppo`` would have them.

    ``codec`` is the policy's. The sampled ids are read as they are, or, by a reward model of
    another tokenizer, the text is encoded again. Without a judge the known reward scores.
    """
    if judge is None:
        answers = [answer.token_ids for answer in answered.rows]
        scores = known_scores(config.reward_function, codec, answers)
    else:
        prompts = [prompt for prompt in answered.prompts for _ in range(config.k)]
        reader = Reader(codec, judge.codec, judge.model.stack.positions)
        ids = [
            reader.ids(row.prompt, prompt, answer.token_ids, finished=answer.finished)
            for (row, prompt), answer in zip(prompts, answered.rows, strict=True)
        ]
        scores = score_ids(judge.model, ids, judge.codec.pad_id, config.micro_tokens, check)
    check_finite(float(scores.sum()), "score")
    finished = torch.tensor([row.finished for row in answered.rows], dtype=torch.bool)
    scores = losses.end_scores(
        scores, finished, config.missing_end_score, config.missing_end_penalty
    )
    return scores.view(-1, config.k)


def best_rows(answered: Answered, scores: Tensor) -> list[SampleRow]:
    """The row of each prompt with the highest score [P, K]; the first of equal ones."""
    k = scores.shape[1]
    return [
        answered.rows[prompt * k + row.index(max(row))]
        for prompt, row in enumerate(scores.tolist())
    ]


def _answer_chunk(
    config: BestConfig,
    sampler: Sampler,
    judge: Judge | None,
    prompts: Sequence[PromptRow],
    folder: Path,
    parents: tuple[Parent, ...],
    check: Check,
) -> Manifest:
    """Draw, score and choose the answers of one chunk; write its folder, the manifest last."""
    started = time.monotonic()
    answered = draw_answers(config, sampler, prompts, check)
    scores = score_answers(config, judge, sampler.codec, answered, check)
    seconds = time.monotonic() - started
    return distributed.by_main(
        lambda: _write_chunk(config, answered, scores, folder, parents, seconds)
    )


def _write_chunk(
    config: BestConfig,
    answered: Answered,
    scores: Tensor,
    folder: Path,
    parents: tuple[Parent, ...],
    seconds: float,
) -> Manifest:
    rows = best_rows(answered, scores)
    lines = [
        ScoredPrompt(prompt.id, prompt.split, tuple(of_prompt))
        for (prompt, _), of_prompt in zip(answered.prompts, scores.tolist(), strict=True)
    ]
    files = {
        ROWS: write_atomic(folder / ROWS, map(row_line, rows)),
        SCORES: write_atomic(folder / SCORES, map(row_line, lines)),
    }
    figures = sample_figures(answered, seconds)
    if rows:
        figures |= {"reward": float(scores.amax(1).mean()), "reward_of_one": float(scores.mean())}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        kind="best",
        name=folder.name,
        rows=len(rows),
        files=files,
        parents=parents,
        settings=_settings(config),
        metrics=figures,
    )
    write_manifest(folder, manifest)
    return manifest


# ---- all chunks together --------------------------------------------------------------------


def _finish(
    config: BestConfig,
    run: Run,
    prompts: Sequence[PromptRow],
    parents: tuple[Parent, ...],
    chunks: int,
) -> None:
    folders = [_chunk_folder(run.out, number) for number in range(chunks)]
    done = [read_manifest(folder) for folder in folders]
    scored = [line for folder in folders for line in read_rows(folder / SCORES, ScoredPrompt)]
    metrics = summed_figures(done)
    if not scored:
        raise DataError(
            f"None of the {len(prompts)} prompts fits in {config.max_prompt_tokens} tokens or in"
            " the model's positions: raise max_prompt_tokens or shorten them."
        )
    notes = skipped_notes(config, metrics["skipped"])
    if config.write_demonstrations:
        rows = [row for folder in folders for row in read_rows(folder / ROWS, SampleRow)]
        notes += _write_demonstrations(config, run.out / DEMONSTRATIONS, prompts, rows, parents)
    curve = reward_curve(scored)
    run.finish(
        Manifest(
            schema_version=SCHEMA_VERSION,
            kind="best",
            name=run.out.name,
            rows=sum(manifest.rows for manifest in done),
            files=folder_files(run.out),
            parents=parents,
            settings=_settings(config),
            metrics=metrics | curve[-1] | {"reward_of_one": curve[0]["reward"], "curve": curve},
            notes=notes,
        )
    )


def reward_curve(scored: Sequence[ScoredPrompt]) -> list[dict[str, float]]:
    """The expected reward of the best of 1, 2, 4, ... and of all n, and the bound on its KL in
    nats; ``valid_reward`` is that of the held-out prompts, where there are some.
    """
    scores = torch.tensor([line.scores for line in scored])
    held_out = torch.tensor([line.split == "valid" for line in scored])
    whole = scores.shape[1]
    curve = []
    for n in sorted({whole, *(2**i for i in range(whole.bit_length()) if 2**i <= whole)}):
        best = losses.expected_best(scores, n)
        point = {"n": n, "kl_bound": losses.best_of_n_kl(n), "reward": float(best.mean())}
        if held_out.any():
            point["valid_reward"] = float(best[held_out].mean())
        curve.append(point)
    return curve


def _write_demonstrations(
    config: BestConfig,
    folder: Path,
    prompts: Sequence[PromptRow],
    best: Sequence[SampleRow],
    parents: tuple[Parent, ...],
) -> tuple[str, ...]:
    """The best answers as a snapshot that stage ``sft`` reads; says what was left out.

    Train prompts to learn from and valid ones to measure on, never test ones. An answer that was
    cut or is empty is left out: it would teach to stop there.
    """
    of_id = {prompt.id: prompt for prompt in prompts if prompt.split != "test"}
    asked = [(of_id[row.prompt_id], row) for row in best if row.prompt_id in of_id]
    rows = [
        DemonstrationRow(
            id=f"{prompt.id}/best-of-{config.k}",
            prompt_id=prompt.id,
            prompt=prompt.prompt,
            completion=row.text,
            split=prompt.split,
            kind=prompt.kind,
            use_case=prompt.use_case,
            source="policy",
            simulated=False,
            **UNLABELED,
        )
        for prompt, row in asked
        if row.finished and row.text
    ]
    if not any(row.split == "train" for row in rows):
        raise DataError(
            "No best answer to a train prompt ended by itself, so there is nothing to demonstrate:"
            " raise max_new_tokens, or set missing_end_score so that cut answers are not chosen."
        )
    left_out = len(asked) - len(rows)
    said = f"{left_out} best answers were cut or empty and are no demonstrations."
    notes = (said,) if left_out else ()
    origin = f"No person wrote these: each is the best of {config.k} answers by a reward model."
    digest = write_atomic(folder / ROWS, map(row_line, rows))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        kind=DEMONSTRATIONS,
        name=f"{DEMONSTRATIONS}-{digest[:12]}",
        rows=len(rows),
        files={ROWS: digest},
        parents=parents,
        settings=_settings(config),
        notes=(origin, *notes),
    )
    write_manifest(folder, manifest)
    return notes


def _chunk_folder(out: Path, number: int) -> Path:
    return out / "chunks" / f"{number:04d}"


def _settings(config: BestConfig) -> dict[str, Any]:
    """What makes the answers what they are: no folder, no batch size."""
    free = {"out", "model", "reward", "prompts", "batch", "threads", "micro_tokens"}
    free |= {"write_demonstrations"}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
