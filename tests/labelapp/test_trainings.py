"""One button: enough labels, three stages in a row, one training at a time."""

from typing import Any

import pytest

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Demonstration, ModelVersion, Ranking, Run, Snapshot, Training
from labelapp.selectors.registry import DRAWN_TEXT, training_view
from labelapp.services.prompts import split_of_author
from labelapp.services.run_leases import run_claim, run_fail, run_finish, run_heartbeat, runs_ready
from labelapp.services.runs import run_cancel
from labelapp.services.trainings import (
    TRAINED_ON,
    training_retry,
    training_start,
    training_stop,
)
from labelapp.trainer_gateway import Outcome
from tests.factories import (
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)
from tests.labelapp.test_snapshots import demonstrate, rank

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def labeled_round(**project: Any) -> Any:
    """A round with one demonstration and one ranking."""
    round_ = make_round(make_project(**project), k=4)
    demonstrate(round_.project, round_)
    rank(round_.project, round_)
    return round_


def finish(run: Run) -> None:
    token = run_claim(run_id=run.pk, worker="one")
    assert token is not None
    assert run_finish(
        run_id=run.pk, token=token, outcome=Outcome(sha256="f" * 64, metrics={}, notes=[])
    )


def fail(run: Run, error: str = "Out of memory.") -> None:
    token = run_claim(run_id=run.pk, worker="one")
    assert token is not None
    assert run_fail(run_id=run.pk, token=token, error=error)


def stages(training: Training) -> dict[str, Run]:
    return {run.stage: run for run in training.runs.all()}


def test_training_freezes_the_labels_and_feeds_each_stage_by_the_one_before() -> None:
    round_ = labeled_round()
    training = training_start(round=round_)
    runs = stages(training)
    assert set(runs) == {"text", "sft", "reward", "ppo"}
    assert {each.kind for each in Snapshot.objects.all()} == set(TRAINED_ON)

    def fed(stage: str) -> dict[str, Any]:
        return {i.role: i.snapshot or i.version or i.source for i in runs[stage].inputs.all()}

    base = round_.policy
    assert fed("sft")["model"] == fed("text")["model"] == base
    assert fed("reward")["model"] == fed("ppo")["policy"] == runs["sft"]
    assert fed("ppo")["reward"] == runs["reward"]
    assert fed("ppo")["pretrain_text"] == runs["text"]
    assert fed("reward")["demonstrations"] == fed("sft")["demonstrations"]
    assert fed("reward")["comparisons"].kind == "comparisons"
    assert training.profile == "test"
    assert runs["ppo"].settings["episodes"] == 16


def test_the_current_reward_model_chooses_the_weights_of_the_next_sft() -> None:
    round_ = labeled_round()
    author = next(f"a{i}" for i in range(50) if split_of_author(f"a{i}") == "valid")
    (held_out,) = make_prompts(round_.project, 1, author=author)
    judge = make_version(round_.project, role="reward", state="current", stage="reward")

    def judges() -> list[ModelVersion | None]:
        training = training_start(round=round_)
        given = [i.version for i in stages(training)["sft"].inputs.filter(role="reward")]
        training_stop(training=training)
        return given

    assert judges() == []  # every prompt with a demonstration is one of training
    more = demonstrate(round_.project, round_)
    Demonstration.objects.filter(pk=more.pk).update(prompt=held_out)
    assert judges() == [judge]
    ModelVersion.objects.filter(pk=judge.pk).update(state="candidate")
    assert judges() == []


def test_stages_run_in_their_order_and_the_training_is_done_with_the_last() -> None:
    training = training_start(round=labeled_round())
    order = []
    while ready := runs_ready():
        run = Run.objects.get(pk=ready[0])
        order.append(run.stage)
        finish(run)
    training.refresh_from_db()
    assert order == ["text", "sft", "reward", "ppo"]
    assert training.state == Training.State.DONE
    assert training.finished_at is not None
    roles = [(v.role, v.state) for v in training.project.versions.order_by("created_at")]
    assert roles == [
        ("policy", "current"),
        ("policy", "candidate"),
        ("reward", "candidate"),
        ("policy", "candidate"),
    ]


def test_too_few_labels_are_told_with_what_is_missing() -> None:
    round_ = labeled_round(min_demonstrations=3, min_rankings=2)
    with pytest.raises(StateConflict, match="2 more demonstrations and 1 more ranking "):
        training_start(round=round_)
    assert not Training.objects.exists()
    assert not Run.objects.exclude(stage="base").exists()


def test_labels_on_held_out_prompts_do_not_count() -> None:
    round_ = labeled_round()
    test_author = next(f"a{i}" for i in range(50) if split_of_author(f"a{i}") == "test")
    (held_out,) = make_prompts(round_.project, 1, author=test_author)
    Demonstration.objects.update(prompt=held_out)
    with pytest.raises(StateConflict, match="0 of 1 demonstrations"):
        training_start(round=round_)


def test_simulated_labels_count_only_when_included() -> None:
    round_ = labeled_round()
    Demonstration.objects.update(simulated=True)
    Ranking.objects.update(simulated=True)
    with pytest.raises(StateConflict, match="Simulated ones do not count unless they are included"):
        training_start(round=round_)
    training = training_start(round=round_, include_simulated=True)
    assert all(s.include_simulated for s in Snapshot.objects.exclude(kind="prompts"))
    assert training.include_simulated


def test_a_second_training_waits_for_the_first() -> None:
    round_ = labeled_round()
    training_start(round=round_)
    with pytest.raises(StateConflict, match="runs already"):
        training_start(round=round_)
    assert Training.objects.count() == 1


def test_an_unknown_profile_is_told() -> None:
    with pytest.raises(BadInput, match="no profile 'huge'"):
        training_start(round=labeled_round(), profile="huge")


def test_a_failed_stage_fails_the_training_and_a_retry_goes_on_there() -> None:
    round_ = labeled_round()
    training = training_start(round=round_)
    runs = stages(training)
    finish(runs["text"])
    finish(runs["sft"])
    fail(runs["reward"], "The disk is full.")
    training.refresh_from_db()
    assert training.state == Training.State.FAILED
    assert runs_ready() == []
    view = {stage.stage: stage for stage in training_view(training).stages}
    assert view["reward"].reason == "The disk is full."
    assert view["ppo"].detail == "Waiting for Reward model"
    assert training_retry(training=training).state == Training.State.ACTIVE
    assert runs_ready() == [runs["reward"].pk]
    finish(runs["reward"])
    finish(runs["ppo"])
    training.refresh_from_db()
    assert training.state == Training.State.DONE


def test_a_retry_is_refused_while_another_training_runs() -> None:
    round_ = labeled_round()
    first = training_start(round=round_)
    fail(stages(first)["text"])
    training_start(round=round_)
    with pytest.raises(StateConflict, match="runs already"):
        training_retry(training=first)
    first.refresh_from_db()
    assert first.state == Training.State.FAILED
    assert stages(first)["text"].state == Run.State.FAILED


def test_stopping_lets_the_running_stage_end_first_and_can_be_taken_back() -> None:
    training = training_start(round=labeled_round())
    runs = stages(training)
    token = run_claim(run_id=runs["text"].pk, worker="one")
    assert token is not None
    assert training_stop(training=training).state == Training.State.ACTIVE
    beat = run_heartbeat(run_id=runs["text"].pk, token=token, step=1, total=2, figures={})
    assert beat.cancel
    assert training_view(training).live
    Run.objects.filter(pk=runs["text"].pk).update(lease_until="2020-01-01T00:00Z")
    assert run_claim(run_id=runs["text"].pk, worker="two") is None
    training.refresh_from_db()
    assert training.state == Training.State.CANCELLED
    assert training_retry(training=training).state == Training.State.ACTIVE
    assert set(runs_ready()) == {runs["text"].pk, runs["sft"].pk}


def test_a_stopped_stage_can_be_stopped_no_further() -> None:
    training = training_start(round=labeled_round())
    training_stop(training=training)
    with pytest.raises(StateConflict, match="ended already"):
        training_stop(training=training)
    with pytest.raises(StateConflict, match="ended already"):
        run_cancel(run=stages(training)["sft"])


def test_the_page_says_that_drawn_text_stands_in(settings) -> None:
    training = training_start(round=labeled_round())
    view = training_view(training)
    assert view.notes == [str(DRAWN_TEXT)]
    assert [stage.stage for stage in view.stages] == ["text", "sft", "reward", "ppo"]
    assert view.stages[0].detail == "Waiting for a worker"
    assert view.stages[1].seconds is None
    training_stop(training=training)
    settings.LABELAPP_PRETRAIN_TEXT = "/texts"
    plain = training_view(training_start(round=training.round))
    assert plain.notes == []
    assert [stage.stage for stage in plain.stages] == ["sft", "reward", "ppo"]


def test_a_training_page_costs_few_queries_at_any_length(django_assert_max_num_queries) -> None:
    training = training_start(round=labeled_round())
    with django_assert_max_num_queries(3):
        training_view(training)


def test_labels_of_every_round_of_the_project_are_used() -> None:
    round_ = labeled_round()
    round_.state = "closed"
    round_.save()
    second = make_round(round_.project, k=4)
    make_task(second)
    make_member(second.project)
    demonstrate(second.project, second)
    training = training_start(round=second)
    used = stages(training)["sft"].inputs.get(role="demonstrations").snapshot
    assert used is not None
    assert used.rows == 2
