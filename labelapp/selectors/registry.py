"""Reads of what was frozen, what ran and what came out."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Count, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labelapp.errors import NotFound
from labelapp.models import ModelVersion, Project, Round, Run, Sample, Snapshot, Training
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.run_logs import metrics_lines
from labelapp.trainer_gateway import notes

STAGE_ORDER = [Run.Stage.TEXT, Run.Stage.SFT, Run.Stage.REWARD, Run.Stage.PPO]
DRAWN_TEXT = gettext_lazy(
    "LABELAPP_PRETRAIN_TEXT is not set: text drawn from the base model stands in for the pretraining text."
)


# --- versions


def current_version(
    *, project: Project, role: str = ModelVersion.Role.POLICY
) -> ModelVersion | None:
    """The version that is in use in this role."""
    return project.versions.filter(role=role, state=ModelVersion.State.CURRENT).first()


def versions_list(project: Project) -> QuerySet[ModelVersion]:
    """All versions, newest first, with what made them."""
    return project.versions.select_related("run__training__round", "promoted_by")


# --- runs


def run_get(*, project: Project, run_id: UUID) -> Run:
    """A run of this project, with its training and round. Raises NotFound."""
    run = project.runs.select_related("training", "round").filter(pk=run_id).first()
    if run is None:
        raise NotFound(_("There is no such run in this project."))
    return run


@dataclass(frozen=True)
class StageView:
    """One run as a page shows it."""

    run_id: UUID
    stage: str
    label: str
    state: str
    """queued, running, done, failed, cancelled"""
    state_label: str
    detail: str
    """What it is doing or waiting for, in a few words; empty when it has ended."""
    fraction: float
    """0 to 1."""
    step: int
    total: int
    figures: dict[str, Any]
    """Last value of every figure; null where it was not finite."""
    seconds: float | None
    """Since it first started; none before."""
    reason: str
    """Why it failed."""
    stopping: bool

    @property
    def percent(self) -> int:
        return int(100 * self.fraction)


@dataclass(frozen=True)
class TrainingView:
    """A training and its stages in the order they run."""

    training: Training
    stages: list[StageView]
    notes: list[str]
    """What has to be said beside the figures."""

    @property
    def live(self) -> bool:
        """Whether the page should ask again."""
        return self.training.state == Training.State.ACTIVE or any(
            stage.state == Run.State.RUNNING for stage in self.stages
        )


def stage_view(run: Run, now: datetime | None = None) -> StageView:
    """A run for a page."""
    now = now or timezone.now()
    ended = run.finished_at or now
    return StageView(
        run_id=run.pk,
        stage=run.stage,
        label=run.get_stage_display(),
        state=run.state,
        state_label=run.get_state_display(),
        detail=_detail(run),
        fraction=run.fraction,
        step=run.step,
        total=run.total,
        figures=run.figures,
        seconds=(ended - run.started_at).total_seconds() if run.started_at else None,
        reason=run.error,
        stopping=run.cancel_requested and run.state == Run.State.RUNNING,
    )


def _detail(run: Run) -> str:
    if run.state == Run.State.RUNNING:
        if run.cancel_requested:
            return _("Stopping after a checkpoint")
        if run.abandoned:
            return _("Its worker is gone; another one will go on with it")
        if not run.total:
            return _("Starting")
        return _("Step %(step)s of %(total)s") % {"step": run.step, "total": run.total}
    if run.state == Run.State.QUEUED:
        before = [
            given.source.get_stage_display()
            for given in run.inputs.all()
            if given.source and given.source.state != Run.State.DONE
        ]
        if before:
            return _("Waiting for %(stages)s") % {"stages": _(" and ").join(before)}
        return _("Waiting for a worker")
    return ""


def _with_inputs(runs: QuerySet[Run]) -> QuerySet[Run]:
    return runs.prefetch_related("inputs__source")


def training_view(training: Training) -> TrainingView:
    """Every stage of a training, live."""
    runs = list(_with_inputs(Run.objects.filter(training=training)))
    runs.sort(key=lambda run: STAGE_ORDER.index(Run.Stage(run.stage)))
    drawn = any(i.role == "pretrain_text" for run in runs for i in run.inputs.all())
    said = [str(DRAWN_TEXT)] if drawn else []
    told = {note for run in runs if run.stage == Run.Stage.TEXT for note in notes(run.pk)}
    for run in runs:
        if run.state == Run.State.DONE:
            said += [note for note in notes(run.pk) if note not in told and note not in said]
    now = timezone.now()
    return TrainingView(training, [stage_view(run, now) for run in runs], said)


def sampling_view(round_: Round) -> StageView | None:
    """The run that answers a round's prompts, the latest one."""
    sampling = Run.objects.filter(round=round_, stage=Run.Stage.SAMPLE, for_pairs=False)
    found = sampling.order_by("-created_at")
    run = _with_inputs(found).first()
    return stage_view(run) if run else None


def run_series(
    *, run: Run, names: Collection[str] | None = None, points: int = 400
) -> dict[str, Any]:
    """Curves for charts: ``steps`` and, per name, ``series`` of the same length, null for no value.

    More than ``points`` steps are put together: the mean of each block of neighbours, at the
    block's last step. Without ``names``, every numeric figure.
    """
    lines = metrics_lines(run.pk)
    if names is None:
        names = sorted({k for line in lines for k, v in line["values"].items() if _number(v)})
    block = -(-len(lines) // points) or 1
    blocks = [lines[i : i + block] for i in range(0, len(lines), block)]
    return {
        "steps": [part[-1]["step"] for part in blocks],
        "series": {
            name: [_mean([line["values"].get(name) for line in part]) for part in blocks]
            for name in names
        },
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if _number(value)]
    return sum(known) / len(known) if known else None


# --- the way back


@dataclass(frozen=True)
class LabelsUsed:
    """A snapshot and who stands behind it."""

    snapshot: Snapshot
    role: str
    labels: int
    labelers: list[str]
    """Pseudonyms, sorted."""


@dataclass(frozen=True)
class LineageStep:
    """A run on the way back, with what it made and what it was made from."""

    run: Run
    version: ModelVersion | None
    labels: list[LabelsUsed]


def lineage(source: ModelVersion | Sample) -> list[LineageStep]:
    """From a version or a sample back to the base model: run after run, each once, newest first.

    Each step names the snapshots that went in and the pseudonyms of the labelers behind them.
    """
    version = source.version if isinstance(source, Sample) else source
    steps: list[LineageStep] = []
    ahead, seen = [version.run_id], {version.run_id}
    while ahead:
        run = (
            Run.objects.select_related("version")
            .prefetch_related("inputs__snapshot", "inputs__version")
            .get(pk=ahead.pop(0))
        )
        inputs = list(run.inputs.all())
        steps.append(
            LineageStep(
                run=run,
                version=getattr(run, "version", None),
                labels=[_labels_used(i.snapshot, i.role) for i in inputs if i.snapshot],
            )
        )
        for given in inputs:
            parent = given.version.run_id if given.version else given.source_id
            if parent is not None and parent not in seen:
                seen.add(parent)
                ahead.append(parent)
    return sorted(steps, key=lambda step: step.run.created_at, reverse=True)


def _labels_used(snapshot: Snapshot, role: str) -> LabelsUsed:
    labels: QuerySet[Any] = (
        snapshot.rankings.all()
        if snapshot.kind == Snapshot.Kind.COMPARISONS
        else snapshot.demonstrations.all()
    )
    rows = list(labels.order_by().values_list("labeler_id").annotate(Count("id")))
    return LabelsUsed(
        snapshot=snapshot,
        role=role,
        labels=sum(count for _who, count in rows),
        labelers=sorted(labeler_pseudonym(who) for who, _count in rows if who is not None),
    )


def pretrain_text_note() -> str:
    """What a page says before training where no pretraining text is set; else empty."""
    return "" if settings.LABELAPP_PRETRAIN_TEXT else str(DRAWN_TEXT)
