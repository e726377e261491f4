"""The registry: one current version per project and role, and a way back from every answer."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from labelapp.errors import StateConflict
from labelapp.models import ModelVersion, Run, RunInput
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.selectors.registry import current_version, lineage, versions_list
from labelapp.services.run_leases import runs_ready
from labelapp.services.trainings import training_start
from labelapp.services.versions import version_promote, version_refuse, version_rollback
from tests.factories import make_member, make_project, make_samples, make_task, make_version
from tests.labelapp.test_trainings import finish, labeled_round, stages

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def trained(round_: Any) -> dict[str, ModelVersion]:
    """The versions of a whole training, by stage."""
    training = training_start(round=round_)
    while ready := runs_ready():
        finish(Run.objects.get(pk=ready[0]))
    return {
        stage: run.version for stage, run in stages(training).items() if hasattr(run, "version")
    }


def test_a_promoted_policy_brings_its_reward_model_and_retires_the_one_before() -> None:
    round_ = labeled_round()
    base, admin = round_.policy, make_member(round_.project, "admin")
    made = trained(round_)
    version_promote(version=made["ppo"], by=admin)
    assert current_version(project=round_.project) == made["ppo"]
    assert current_version(project=round_.project, role="reward") == made["reward"]
    base.refresh_from_db()
    assert base.state == "retired"
    assert ModelVersion.objects.get(pk=made["ppo"].pk).promoted_by == admin


def test_going_back_makes_the_earlier_policy_current_again() -> None:
    round_ = labeled_round()
    base, made = round_.policy, trained(round_)
    version_promote(version=made["ppo"], by=None)
    version_rollback(version=base, by=None)
    assert current_version(project=round_.project) == base
    made["ppo"].refresh_from_db()
    assert made["ppo"].state == "retired"
    version_rollback(version=made["ppo"], by=None)
    assert current_version(project=round_.project) == made["ppo"]


def test_what_was_never_current_cannot_be_gone_back_to() -> None:
    version = make_version(make_project())
    with pytest.raises(StateConflict, match="never current"):
        version_rollback(version=version, by=None)


def test_what_was_refused_or_is_current_cannot_be_promoted() -> None:
    project = make_project()
    current, candidate = make_version(project, state="current"), make_version(project)
    version_refuse(version=candidate)
    with pytest.raises(StateConflict, match="was refused"):
        version_promote(version=candidate, by=None)
    with pytest.raises(StateConflict, match="current one already"):
        version_promote(version=current, by=None)
    with pytest.raises(StateConflict, match="Only a candidate"):
        version_refuse(version=current)


def test_promoting_in_one_project_leaves_the_others_alone() -> None:
    mine, other = make_project("mine"), make_project("other")
    theirs = make_version(other, state="current")
    version_promote(version=make_version(mine), by=None)
    assert current_version(project=other) == theirs


def test_the_database_itself_refuses_a_second_current_version() -> None:
    project = make_project()
    make_version(project, state="current")
    with pytest.raises(IntegrityError), transaction.atomic():
        make_version(project, state="current")


def test_versions_count_from_one_in_each_role() -> None:
    made = trained(labeled_round())
    assert {str(version) for version in made.values()} == {"policy-1", "reward-1", "policy-2"}


def test_from_an_answer_one_can_walk_back_to_the_labelers() -> None:
    round_ = labeled_round()
    made = trained(round_)
    demonstration = round_.project.demonstrations.get()
    ranking = round_.project.rankings.get()
    task = make_task(round_, kind="ranking")
    task.samples.all().delete()
    round_.policy = made["ppo"]
    (answer, *_) = make_samples(task)
    steps = {step.run.stage: step for step in lineage(answer)}
    assert list(steps) == ["ppo", "reward", "sft", "text", "base"]
    assert steps["ppo"].version == made["ppo"]
    behind = {used.role: used for used in steps["reward"].labels}
    assert behind["comparisons"].labelers == [labeler_pseudonym(ranking.labeler_id)]
    assert demonstration.labeler_id is not None
    assert behind["demonstrations"].labelers == [labeler_pseudonym(demonstration.labeler_id)]
    assert behind["demonstrations"].labels == 1


def test_the_list_of_versions_costs_one_query(django_assert_num_queries) -> None:
    project = make_project()
    for _ in range(3):
        make_version(project)
    with django_assert_num_queries(1):
        shown = [
            (str(v), v.run.stage, v.run.training, v.promoted_by) for v in versions_list(project)
        ]
    assert len(shown) == 3


def test_an_input_is_one_thing_only() -> None:
    project = make_project()
    run, version = Run.objects.create(project=project, stage="sft"), make_version(project)
    with pytest.raises(IntegrityError), transaction.atomic():
        RunInput.objects.create(run=run, role="model", version=version, source=version.run)
