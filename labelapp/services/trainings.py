"""The one button: freeze the labels, queue SFT, the reward model and PPO, each fed by the one before."""

from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from labelapp.errors import BadInput, StateConflict
from labelapp.models import (
    Demonstration,
    ModelVersion,
    Project,
    Ranking,
    Round,
    Run,
    Snapshot,
    Split,
    Training,
    User,
)
from labelapp.profiles import PROFILES
from labelapp.services.runs import LIVE, run_cancel, run_queue, run_retry, text_queue
from labelapp.services.snapshots import snapshot_freeze

TRAINED_ON = (Snapshot.Kind.DEMONSTRATIONS, Snapshot.Kind.COMPARISONS, Snapshot.Kind.PROMPTS)
"""What a training freezes. Votes on pairs judge the versions, often on test prompts: never those."""
ACTIVE_ALREADY = gettext_lazy(
    "A training of this project runs already; stop it or wait until it ends."
)


@transaction.atomic
def training_start(
    *,
    round: Round,
    by: User | None = None,
    include_simulated: bool = False,
    profile: str | None = None,
) -> Training:
    """Start SFT -> reward model -> PPO-ptx on all labels of the round's project.

    SFT starts from the base model each time, as in the paper. Raises StateConflict below the
    project's thresholds, without a base model, or while another training runs.
    """
    profile = profile or settings.LABELAPP_TRAINING
    if profile not in PROFILES:
        raise BadInput(
            _("There is no profile %(profile)s; there are %(names)s.")
            % {"profile": repr(profile), "names": ", ".join(PROFILES)}
        )
    project = Project.objects.select_for_update().get(pk=round.project_id)
    if project.trainings.filter(state=Training.State.ACTIVE).exists():
        raise StateConflict(ACTIVE_ALREADY)
    base = (
        project.versions.filter(run__stage=Run.Stage.BASE)
        .exclude(state=ModelVersion.State.REFUSED)
        .order_by("number")
        .last()
    )
    if base is None:
        raise StateConflict(_("The base model is not there yet; wait until its run is done."))
    _check_thresholds(project, include_simulated)
    training = _create(round, by, include_simulated, profile)
    _queue_stages(training, base, by)
    return training


def _create(round: Round, by: User | None, include_simulated: bool, profile: str) -> Training:
    try:
        with transaction.atomic():
            return Training.objects.create(
                project_id=round.project_id,
                round=round,
                include_simulated=include_simulated,
                profile=profile,
                started_by=by,
            )
    except IntegrityError:
        raise StateConflict(ACTIVE_ALREADY) from None


def _queue_stages(training: Training, base: ModelVersion, by: User | None) -> None:
    project = training.project
    frozen = {
        kind: snapshot_freeze(
            project=project, kind=kind, include_simulated=training.include_simulated, by=by
        )
        for kind in TRAINED_ON
    }
    shared: dict[str, Any] = {"project": project, "training": training, "profile": training.profile}
    demonstrations = frozen[Snapshot.Kind.DEMONSTRATIONS]
    text = text_queue(project=project, version=base, training=training)
    judge = _judge(training)
    sft = run_queue(
        stage=Run.Stage.SFT,
        inputs={
            "model": base,
            "demonstrations": demonstrations,
            **({"reward": judge} if judge is not None else {}),
        },
        **shared,
    )
    reward = run_queue(
        stage=Run.Stage.REWARD,
        inputs={
            "model": sft,
            "comparisons": frozen[Snapshot.Kind.COMPARISONS],
            "demonstrations": demonstrations,
        },
        **shared,
    )
    run_queue(
        stage=Run.Stage.PPO,
        inputs={
            "policy": sft,
            "reward": reward,
            "prompts": frozen[Snapshot.Kind.PROMPTS],
            **({"pretrain_text": text} if text is not None else {}),
        },
        **shared,
    )


def _judge(training: Training) -> ModelVersion | None:
    """The current reward model, of an earlier round, whose score chooses the weights that SFT keeps.

    None in round 1, and where no held-out prompt has a demonstration to be asked about.
    """
    held_out = _demonstrations(training.project, Split.VALID, training.include_simulated)
    current = training.project.versions.filter(
        role=ModelVersion.Role.REWARD, state=ModelVersion.State.CURRENT
    )
    return current.first() if held_out.exists() else None


def _demonstrations(
    project: Project, split: str, include_simulated: bool
) -> QuerySet[Demonstration]:
    """Those that a training with or without simulated labels has of a split."""
    found = Demonstration.objects.current().filter(
        project=project, surplus=False, prompt__split=split
    )
    return found if include_simulated else found.filter(simulated=False)


def training_label_counts(*, project: Project, include_simulated: bool = False) -> tuple[int, int]:
    """Demonstrations and rankings that training would learn from: those of the train split."""
    demonstrations = _demonstrations(project, Split.TRAIN, include_simulated)
    rankings = Ranking.objects.current().filter(
        project=project, surplus=False, task__prompt__split=Split.TRAIN
    )
    if not include_simulated:
        rankings = rankings.filter(simulated=False)
    return demonstrations.count(), rankings.count()


def _check_thresholds(project: Project, include_simulated: bool) -> None:
    demonstrations, rankings = training_label_counts(
        project=project, include_simulated=include_simulated
    )
    missing = []
    if demonstrations < project.min_demonstrations:
        n = project.min_demonstrations - demonstrations
        missing.append(
            ngettext("%(n)s more demonstration", "%(n)s more demonstrations", n) % {"n": n}
        )
    if rankings < project.min_rankings:
        n = project.min_rankings - rankings
        missing.append(ngettext("%(n)s more ranking", "%(n)s more rankings", n) % {"n": n})
    if missing:
        message = _(
            "Training needs %(missing)s on prompts of the train split; there are %(demonstrations)s of %(min_demonstrations)s demonstrations and %(rankings)s of %(min_rankings)s rankings."
        ) % {
            "missing": _(" and ").join(missing),
            "demonstrations": demonstrations,
            "min_demonstrations": project.min_demonstrations,
            "rankings": rankings,
            "min_rankings": project.min_rankings,
        }
        if not include_simulated:
            message += " " + _("Simulated ones do not count unless they are included.")
        raise StateConflict(message)


@transaction.atomic
def training_stop(*, training: Training, by: User | None = None) -> Training:
    """Stop every run of a training; the one that runs writes a checkpoint first."""
    training = Training.objects.select_for_update().get(pk=training.pk)
    if training.state != Training.State.ACTIVE:
        raise StateConflict(_("This training has ended already."))
    for run in training.runs.filter(state__in=LIVE).order_by("-created_at"):
        run_cancel(run=run, by=by)
    training.refresh_from_db()
    return training


@transaction.atomic
def training_retry(*, training: Training, by: User | None = None) -> Training:
    """Go on with a failed or stopped training: what is done stays, the rest is queued again."""
    training = Training.objects.select_for_update().get(pk=training.pk)
    if training.state not in (Training.State.FAILED, Training.State.CANCELLED):
        raise StateConflict(_("Only a failed or stopped training can be tried again."))
    ended = training.runs.filter(state__in=[Run.State.FAILED, Run.State.CANCELLED])
    for run in ended.order_by("created_at"):
        run_retry(run=run, by=by)
    training.refresh_from_db()
    return training
