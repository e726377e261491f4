"""What reward models think of a round's answers: queueing the run that asks them, bringing it in."""

import math
from collections.abc import Sequence

from django.db import transaction
from django.utils.translation import gettext as _

from labelapp.errors import SnapshotMismatch, StateConflict
from labelapp.models import Round, Run, Sample, SampleScore
from labelapp.selectors.judges import JUDGE, judges_now, judges_of_run
from labelapp.services.runs import run_queue, run_retry
from labelapp.trainer_gateway import ScoreRow


@transaction.atomic
def scoring_queue(*, run: Run) -> Run | None:
    """After a sampling run of an open round in active order: the run that scores its answers.

    None where the round has another order, there is nothing to score or no reward model.
    """
    round_ = run.round
    if round_ is None or run.for_pairs or round_.order != Round.Order.ACTIVE:
        return None
    if round_.state != Round.State.OPEN or not run.samples.filter(task__isnull=False).exists():
        return None
    judges = judges_now(run.project)
    prompts = run.inputs.select_related("snapshot").get(role="prompts").snapshot
    policy = run.inputs.select_related("version").get(role="model").version
    if not judges or prompts is None or policy is None:
        return None
    found = Run.objects.filter(
        stage=Run.Stage.SCORE, inputs__role="samples", inputs__source=run
    ).first()
    return found or run_queue(
        project=run.project,
        stage=Run.Stage.SCORE,
        inputs={
            "model": policy,
            "prompts": prompts,
            "samples": run,
            **{f"{JUDGE}{number}": judge for number, judge in enumerate(judges, 1)},
        },
        round=round_,
    )


@transaction.atomic
def scoring_retry(*, round: Round) -> list[Run]:
    """Queue what of a round's scoring failed or was stopped again; StateConflict if nothing was."""
    ended = (Run.State.FAILED, Run.State.CANCELLED)
    left = list(round.runs.filter(stage=Run.Stage.SCORE, state__in=ended))
    if not left or round.state != Round.State.OPEN:
        raise StateConflict(_("There is no scoring to go on with in this round."))
    return [run_retry(run=run) for run in left]


@transaction.atomic
def scores_import(*, run: Run, rows: Sequence[ScoreRow]) -> int:
    """Store a finished chunk of scores; returns how many rows. Safe to run twice."""
    judges = judges_of_run(run)
    source = run.inputs.values_list("source_id", flat=True).get(role="samples")
    asked = {int(row.prompt_id) for row in rows}
    samples = {
        (prompt, index): pk
        for pk, prompt, index in Sample.objects.filter(
            run_id=source, prompt_id__in=asked
        ).values_list("pk", "prompt_id", "index")
    }
    scores = []
    for row in rows:
        if not 0 <= row.judge < len(judges) or not math.isfinite(row.score):
            raise SnapshotMismatch(
                _("The scores of run %(run)s have a row that cannot be: %(row)s.")
                % {"run": run.pk, "row": row}
            )
        sample = samples.get((int(row.prompt_id), row.index))
        if sample is not None:  # its task was closed before it came in
            scores.append(
                SampleScore(sample_id=sample, version=judges[row.judge], run=run, score=row.score)
            )
    SampleScore.objects.bulk_create(scores, batch_size=1000, ignore_conflicts=True)
    return len(scores)
