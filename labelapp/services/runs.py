"""Queueing runs, stopping them, trying them again. Rows are the queue: a worker takes what is ready.

Who calls these nudges the GPU worker after commit (``labelapp.tasks.runs_nudge``); beat sweeps
what was missed.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import FilteredRelation, Q, QuerySet
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import (
    LivePrompt,
    ModelVersion,
    Project,
    Prompt,
    Round,
    Run,
    RunInput,
    Snapshot,
    Task,
    Training,
    User,
)
from labelapp.profiles import stage_settings
from labelapp.services.settling import undos_wait
from labelapp.services.snapshots import prompts_freeze
from labelapp.services.training_state import training_refresh
from labelapp.trainer_gateway import base_source, config_check

Input = Snapshot | ModelVersion | Run
LIVE = (Run.State.QUEUED, Run.State.RUNNING)


@transaction.atomic
def run_queue(
    *,
    project: Project,
    stage: str,
    inputs: Mapping[str, Input] | None = None,
    overrides: Mapping[str, Any] | None = None,
    profile: str | None = None,
    round: Round | None = None,
    training: Training | None = None,
    for_pairs: bool = False,
) -> Run:
    """Add a run. ``inputs`` are named as the stage's settings name their folders; a run among
    them is waited for. Raises BadInput for settings that the stage would refuse.
    """
    plain = stage_settings(profile or settings.LABELAPP_TRAINING, stage) | dict(overrides or {})
    config_check(stage, plain)
    run = Run.objects.create(
        project=project,
        stage=stage,
        settings=plain,
        round=round,
        training=training,
        for_pairs=for_pairs,
    )
    for role, given in (inputs or {}).items():
        RunInput.objects.create(run=run, role=role, **{_INPUT_FIELDS[type(given)]: given})
    return run


_INPUT_FIELDS: dict[type[Any], str] = {
    Snapshot: "snapshot",
    ModelVersion: "version",
    Run: "source",
}


# --- the base model and its text


@transaction.atomic
def base_queue(*, project: Project) -> Run:
    """The run that brings in LABELAPP_BASE_MODEL, once per project; a failed one is queued again."""
    Project.objects.select_for_update().get(pk=project.pk)
    found = project.runs.filter(stage=Run.Stage.BASE).order_by("created_at").last()
    if found is not None:
        if found.state in (Run.State.FAILED, Run.State.CANCELLED):
            return run_retry(run=found)
        return found
    source = base_source()
    known = {} if source.startswith(("/", "~", ".")) else {"source": source}  # no path in a row
    return run_queue(project=project, stage=Run.Stage.BASE, overrides=known)


@transaction.atomic
def text_queue(
    *, project: Project, version: ModelVersion, training: Training | None = None
) -> Run | None:
    """The run that draws pretraining text from a model; none where LABELAPP_PRETRAIN_TEXT is set.

    What was drawn from this version before is used again.
    """
    if settings.LABELAPP_PRETRAIN_TEXT:
        return None
    drawn = project.runs.filter(
        stage=Run.Stage.TEXT, inputs__role="model", inputs__version=version, state=Run.State.DONE
    ).first()
    return drawn or run_queue(
        project=project,
        stage=Run.Stage.TEXT,
        inputs={"model": version},
        profile=training.profile if training else None,
        training=training,
    )


# --- answers


@transaction.atomic
def sampling_queue(*, round: Round) -> Run | None:
    """The run that answers the prompts of a round's waiting ranking tasks; none if none waits.

    One that is under way, or that failed and can go on, is returned instead of a second.
    """
    Round.objects.select_for_update().get(pk=round.pk)
    prompts = _prompts_waiting(round, Task.Kind.RANKING)
    if not prompts.exists():
        return None
    runs = round.runs.filter(stage=Run.Stage.SAMPLE, for_pairs=False)
    found = runs.exclude(state=Run.State.DONE).first()
    if found is not None:
        return found if found.state in LIVE else run_retry(run=found)
    run = _sample_run(
        project=round.project,
        version=round.policy,
        prompts=prompts,
        round=round,
        drawn=_drawn(round, round.k),
    )
    LivePrompt.objects.filter(round=round, task__state=Task.State.WAITING).update(run=run)
    return run


def _prompts_waiting(round: Round, kind: str) -> QuerySet[Prompt]:
    """The prompts of the round's waiting tasks of a kind, in the order of the tasks."""
    waiting = Q(tasks__round=round, tasks__kind=kind, tasks__state=Task.State.WAITING)
    return (
        Prompt.objects.annotate(waiting=FilteredRelation("tasks", condition=waiting))
        .filter(waiting__isnull=False)
        .order_by("waiting__position")
    )


@transaction.atomic
def pair_sampling_queue(*, round: Round) -> list[Run]:
    """The two runs that answer the prompts of a round's waiting pairs, one for each version.

    One that failed or was stopped goes on; none where no pair waits.
    """
    Round.objects.select_for_update().get(pk=round.pk)
    prompts = _prompts_waiting(round, Task.Kind.PAIRWISE)
    if not prompts.exists():
        return []
    runs = []
    for version in (round.policy, round.opponent):
        assert version is not None  # a constraint: pairs have an opponent
        found = round.runs.filter(for_pairs=True, inputs__version=version).first()
        if found is None:
            found = _sample_run(
                project=round.project,
                version=version,
                prompts=prompts,
                round=round,
                drawn=_drawn(round, k=1),
                for_pairs=True,
            )
        elif found.state in (Run.State.FAILED, Run.State.CANCELLED):
            found = run_retry(run=found)
        runs.append(found)
    return runs


def _drawn(round: Round, k: int) -> dict[str, Any]:
    """How a round draws its answers."""
    return {
        "k": k,
        "temperature": round.temperature,
        "max_new_tokens": round.max_new_tokens,
        "seed": round.seed,
    }


@transaction.atomic
def evaluation_sampling_queue(
    *,
    project: Project,
    version: ModelVersion,
    split: str = "test",
    k: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 48,
    seed: int = 0,
    limit: int | None = None,
) -> Run:
    """A run that answers the prompts of a split to be scored, not ranked: samples without task."""
    undos_wait(project.pk)
    prompts = project.prompts.current().filter(split=split).order_by("pk")[:limit]
    if not prompts.exists():
        raise BadInput(_("There are no prompts in the %(split)s split.") % {"split": split})
    return _sample_run(
        project=project,
        version=version,
        prompts=prompts,
        drawn={
            "k": k,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
        },
    )


def _sample_run(
    *,
    project: Project,
    version: ModelVersion,
    prompts: QuerySet[Prompt],
    drawn: dict[str, Any],
    round: Round | None = None,
    for_pairs: bool = False,
) -> Run:
    snapshot = prompts_freeze(project=project, prompts=prompts)
    return run_queue(
        project=project,
        stage=Run.Stage.SAMPLE,
        inputs={"model": version, "prompts": snapshot},
        overrides=drawn,
        round=round,
        for_pairs=for_pairs,
    )


# --- what people do to a run


def run_lock(run_id: UUID) -> Run:
    """The run, its row locked; its training's row first, as everywhere."""
    training_id = Run.objects.values_list("training_id", flat=True).get(pk=run_id)
    if training_id is not None:
        Training.objects.select_for_update().get(pk=training_id)
    return Run.objects.select_for_update().get(pk=run_id)


@transaction.atomic
def run_cancel(*, run: Run, by: User | None = None) -> Run:
    """Stop a run: at once while queued, after its next checkpoint while it runs."""
    run = run_lock(run.pk)
    if run.state == Run.State.QUEUED:
        run.state = Run.State.CANCELLED
        run.save(update_fields=["state"])
        training_refresh(training_id=run.training_id)
    elif run.state == Run.State.RUNNING:
        run.cancel_requested = True
        run.save(update_fields=["cancel_requested"])
    else:
        raise StateConflict(
            _("This run has ended already: %(state)s.") % {"state": run.get_state_display()}
        )
    return run


@transaction.atomic
def run_retry(*, run: Run, by: User | None = None) -> Run:
    """Queue a failed or stopped run again; it goes on from its last checkpoint."""
    run = run_lock(run.pk)
    if run.state not in (Run.State.FAILED, Run.State.CANCELLED):
        raise StateConflict(
            _("Only a failed or stopped run can be tried again; the state of this one: %(state)s.")
            % {"state": run.get_state_display()}
        )
    run.state = Run.State.QUEUED
    run.cancel_requested = False
    run.attempt = 0
    run.error = ""
    run.finished_at = None
    run.save(update_fields=["state", "cancel_requested", "attempt", "error", "finished_at"])
    training_refresh(training_id=run.training_id)
    return run
