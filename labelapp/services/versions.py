"""The registry's writes: what a run made becomes a version, and one version per role is current."""

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import StateConflict
from labelapp.models import ModelVersion, Project, Run, User
from labelapp.policy_server import policy_announce
from labelapp.trainer_gateway import Outcome, notes

ROLES = {
    Run.Stage.BASE: ModelVersion.Role.POLICY,
    Run.Stage.SFT: ModelVersion.Role.POLICY,
    Run.Stage.PPO: ModelVersion.Role.POLICY,
    Run.Stage.REWARD: ModelVersion.Role.REWARD,
}
"""What a stage makes; the others make no model."""

_State = ModelVersion.State


@transaction.atomic
def version_register(*, run: Run, outcome: Outcome) -> ModelVersion | None:
    """A candidate out of a finished run; none for stages that make no model.

    The base model is current at once where no policy is. A second call gives the first's row.
    """
    role = ROLES.get(Run.Stage(run.stage))
    if role is None:
        return None
    project = _lock(run.project_id)
    found = ModelVersion.objects.filter(run=run).first()
    if found is not None:
        return found
    others = project.versions.filter(role=role)
    first = run.stage == Run.Stage.BASE and not others.filter(state=_State.CURRENT).exists()
    if first:
        policy_announce(run.pk)
    return ModelVersion.objects.create(
        project=project,
        role=role,
        number=(others.aggregate(Max("number"))["number__max"] or 0) + 1,
        state=_State.CURRENT if first else _State.CANDIDATE,
        run=run,
        sha256=outcome.sha256,
        metrics=outcome.metrics,
        notes=[*outcome.notes, *(n for n in _text_notes(run) if n not in outcome.notes)],
        promoted_at=timezone.now() if first else None,
    )


@transaction.atomic
def version_promote(*, version: ModelVersion, by: User | None) -> ModelVersion:
    """Make a candidate, or an earlier version again, the current one of its role.

    A policy that PPO made brings the reward model it was trained with. Raises StateConflict for
    a version that is current or was refused.
    """
    _lock(version.project_id)
    version.refresh_from_db()
    if version.state == _State.CURRENT:
        raise StateConflict(_("%(version)s is the current one already.") % {"version": version})
    if version.state == _State.REFUSED:
        raise StateConflict(
            _("%(version)s was refused and cannot be promoted.") % {"version": version}
        )
    _make_current(version, by)
    beside = _reward_model_of(version)
    if beside is not None and beside.state in (_State.CANDIDATE, _State.RETIRED):
        _make_current(beside, by)
    return version


@transaction.atomic
def version_rollback(*, version: ModelVersion, by: User | None) -> ModelVersion:
    """Go back to a version that was current before."""
    version.refresh_from_db()
    if version.state != _State.RETIRED:
        raise StateConflict(
            _("%(version)s was never current; promote it instead.") % {"version": version}
        )
    return version_promote(version=version, by=by)


@transaction.atomic
def version_refuse(*, version: ModelVersion, by: User | None = None) -> ModelVersion:
    """Say that a candidate will not be used."""
    _lock(version.project_id)
    changed = ModelVersion.objects.filter(pk=version.pk, state=_State.CANDIDATE).update(
        state=_State.REFUSED
    )
    version.refresh_from_db()
    if not changed:
        raise StateConflict(
            _("Only a candidate can be refused; the state of %(version)s: %(state)s.")
            % {"version": version, "state": version.get_state_display()}
        )
    return version


def _lock(project_id: int) -> Project:
    """One change of a project's registry at a time."""
    return Project.objects.select_for_update().get(pk=project_id)


def _text_notes(run: Run) -> list[str]:
    """What is to be said of the pretraining text that went in."""
    text = run.inputs.filter(role="pretrain_text", source__isnull=False).first()
    return notes(text.source_id) if text is not None and text.source_id is not None else []


def _make_current(version: ModelVersion, by: User | None) -> None:
    ModelVersion.objects.filter(
        project_id=version.project_id, role=version.role, state=_State.CURRENT
    ).update(state=_State.RETIRED)
    version.state = _State.CURRENT
    version.promoted_by = by
    version.promoted_at = timezone.now()
    version.save(update_fields=["state", "promoted_by", "promoted_at"])
    if version.role == ModelVersion.Role.POLICY:
        policy_announce(version.run_id)


def _reward_model_of(version: ModelVersion) -> ModelVersion | None:
    """The reward model with which PPO trained this policy."""
    return ModelVersion.objects.filter(
        project_id=version.project_id, run__feeds__run_id=version.run_id, run__feeds__role="reward"
    ).first()
