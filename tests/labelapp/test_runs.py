"""Runs are rows with a lease: taken once, kept by heartbeat, taken up again when left behind."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import close_old_connections, connection
from django.utils import timezone

from labelapp.errors import BadInput, StateConflict
from labelapp.models import ModelVersion, Run, Sample, Task
from labelapp.selectors.registry import run_series, sampling_view, stage_view
from labelapp.services.rounds import round_close
from labelapp.services.run_leases import (
    ATTEMPTS,
    run_cancelled,
    run_claim,
    run_fail,
    run_finish,
    run_heartbeat,
    run_release,
    runs_ready,
    runs_reclaim,
)
from labelapp.services.runs import (
    base_queue,
    evaluation_sampling_queue,
    run_cancel,
    run_queue,
    run_retry,
    sampling_queue,
    text_queue,
)
from labelapp.services.samples import samples_import
from labelapp.store import run_folder
from labelapp.trainer_gateway import Outcome, SampleRow
from tests.factories import make_project, make_prompts, make_round, make_task, make_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

DONE = Outcome(sha256="f" * 64, metrics={"loss": 0.5}, notes=["Said."])


def base_run(**fields: Any) -> Run:
    return run_queue(project=make_project(), stage=Run.Stage.BASE, **fields)


def claim(run: Run, worker: str = "one") -> UUID:
    token = run_claim(run_id=run.pk, worker=worker)
    assert token is not None
    return token


def let_lease_run_out(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def beat(run: Run, token: UUID, step: int = 1) -> Any:
    return run_heartbeat(run_id=run.pk, token=token, step=step, total=9, figures={"loss": 1.0})


def waiting_round(prompts: int = 3, **fields: Any) -> Any:
    """A round whose ranking tasks wait for answers."""
    round_ = make_round(make_project(), k=2, **fields)
    for position in range(prompts):
        (prompt,) = make_prompts(round_.project, 1)
        Task.objects.create(
            project=round_.project,
            round=round_,
            prompt=prompt,
            kind="ranking",
            state="waiting",
            position=prompts - position,
        )
    return round_


def answers(task: Task, k: int = 2, text: str = "Yes.") -> list[SampleRow]:
    return [
        SampleRow(str(task.prompt_id), index, text, (5, 2), True, 1, 1.0, 16) for index in range(k)
    ]


def test_a_queued_run_is_claimed_once() -> None:
    run = base_run()
    token = claim(run)
    assert run_claim(run_id=run.pk, worker="two") is None
    run.refresh_from_db()
    assert (run.state, run.lease_token, run.worker, run.attempt) == ("running", token, "one", 1)


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_at_once_exactly_one_gets_the_run() -> None:
    run = base_run()
    start, tokens = threading.Barrier(6), []

    def work(name: str) -> None:
        start.wait()
        tokens.append(run_claim(run_id=run.pk, worker=name))
        connection.close()

    threads = [threading.Thread(target=work, args=(f"worker {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close_old_connections()
    assert sum(token is not None for token in tokens) == 1


def test_a_run_waits_until_its_inputs_are_done() -> None:
    project = make_project()
    first = run_queue(project=project, stage=Run.Stage.BASE)
    second = run_queue(project=project, stage=Run.Stage.TEXT, inputs={"model": first})
    assert runs_ready() == [first.pk]
    assert run_claim(run_id=second.pk, worker="one") is None
    run_finish(run_id=first.pk, token=claim(first), outcome=DONE)
    assert runs_ready() == [second.pk]
    claim(second)


def test_a_heartbeat_shows_progress_and_keeps_the_lease() -> None:
    run = base_run()
    token = claim(run)
    let_lease_run_out(run)
    assert runs_reclaim() == [run.pk]
    assert beat(run, token, step=3).held
    assert runs_reclaim() == []
    run.refresh_from_db()
    assert (run.step, run.total, run.figures) == (3, 9, {"loss": 1.0})
    assert run.fraction == pytest.approx(1 / 3)


def test_a_lease_that_ran_out_goes_to_another_worker_and_the_first_can_write_no_more() -> None:
    run = base_run()
    lost = claim(run)
    let_lease_run_out(run)
    held = claim(run, "two")
    assert not beat(run, lost).held
    assert not run_finish(run_id=run.pk, token=lost, outcome=DONE)
    assert not run_fail(run_id=run.pk, token=lost, error="No.")
    assert not run_release(run_id=run.pk, token=lost)
    assert not ModelVersion.objects.exists()
    assert run_finish(run_id=run.pk, token=held, outcome=DONE)
    assert not run_finish(run_id=run.pk, token=held, outcome=DONE)
    assert ModelVersion.objects.count() == 1


def test_a_run_whose_worker_is_lost_again_and_again_fails_with_a_hint() -> None:
    run = base_run()
    for _ in range(ATTEMPTS):
        claim(run)
        let_lease_run_out(run)
    assert runs_reclaim() == []
    run.refresh_from_db()
    assert run.state == Run.State.FAILED
    assert "worker was lost 8 times" in run.error
    run_retry(run=run)
    claim(run)


def test_workers_that_leave_in_order_do_not_count_as_lost() -> None:
    run = base_run()
    for _ in range(ATTEMPTS + 2):
        assert run_release(run_id=run.pk, token=claim(run))
    run.refresh_from_db()
    assert (run.state, run.attempt) == (Run.State.QUEUED, 0)


def test_stopping_a_queued_run_is_at_once_and_a_running_one_is_asked() -> None:
    queued = base_run()
    assert run_cancel(run=queued).state == Run.State.CANCELLED
    running = run_queue(project=queued.project, stage=Run.Stage.BASE)
    token = claim(running)
    run_cancel(run=running)
    assert beat(running, token).cancel
    assert stage_view(Run.objects.get(pk=running.pk)).stopping
    assert run_cancelled(run_id=running.pk, token=token)
    with pytest.raises(StateConflict, match="ended already: Stopped"):
        run_cancel(run=running)


def test_a_stop_that_its_lost_worker_could_not_do_is_done_at_the_next_claim() -> None:
    run = base_run()
    claim(run)
    run_cancel(run=run)
    let_lease_run_out(run)
    assert run_claim(run_id=run.pk, worker="two") is None
    run.refresh_from_db()
    assert run.state == Run.State.CANCELLED


def test_only_what_failed_or_was_stopped_is_tried_again() -> None:
    run = base_run()
    with pytest.raises(StateConflict, match="the state of this one: Queued"):
        run_retry(run=run)
    run_fail(run_id=run.pk, token=claim(run), error="Out of memory.")
    run.refresh_from_db()
    assert (run.state, run.error) == ("failed", "Out of memory.")
    again = run_retry(run=run)
    assert (again.state, again.error, again.finished_at) == ("queued", "", None)


def test_settings_that_the_stage_would_refuse_are_refused_when_queued() -> None:
    with pytest.raises(BadInput, match="temperature is -1"):
        run_queue(project=make_project(), stage="sample", overrides={"temperature": -1.0})
    assert not Run.objects.exists()


def test_the_base_model_is_queued_once_and_its_version_is_current() -> None:
    project = make_project()
    run = base_queue(project=project)
    assert base_queue(project=project) == run
    run_finish(run_id=run.pk, token=claim(run), outcome=DONE)
    version = ModelVersion.objects.get()
    assert (version.state, version.role, version.notes) == ("current", "policy", ["Said."])
    assert base_queue(project=project) == run


def test_a_base_model_that_failed_is_tried_again() -> None:
    project = make_project()
    run = base_queue(project=project)
    run_fail(run_id=run.pk, token=claim(run), error="No such model.")
    assert base_queue(project=project).pk == run.pk
    assert runs_ready() == [run.pk]


def test_no_row_holds_a_path_of_this_machine(settings, tmp_path) -> None:
    settings.LABELAPP_BASE_MODEL = str(tmp_path / "model")
    run = base_queue(project=make_project())
    assert "source" not in run.settings


def test_text_is_drawn_once_per_model_and_not_where_there_is_real_text(settings) -> None:
    project = make_project()
    version = make_version(project)
    run = text_queue(project=project, version=version)
    assert run is not None
    run_finish(run_id=run.pk, token=claim(run), outcome=DONE)
    assert text_queue(project=project, version=version) == run
    settings.LABELAPP_PRETRAIN_TEXT = "/texts"
    assert text_queue(project=project, version=version) is None


def test_a_round_gets_one_sampling_run_with_its_settings_in_the_order_of_its_tasks() -> None:
    round_ = waiting_round(temperature=0.7, seed=11, max_new_tokens=24)
    other = make_round(round_.project, state="closed")
    prompt = round_.tasks.first().prompt
    Task.objects.create(
        project=other.project,
        round=other,
        prompt=prompt,
        kind="ranking",
        state="waiting",
        position=0,
    )
    run = sampling_queue(round=round_)
    assert run is not None
    assert sampling_queue(round=round_) == run
    drawn = {name: run.settings[name] for name in ("k", "temperature", "seed", "max_new_tokens")}
    assert drawn == {"k": 2, "temperature": 0.7, "seed": 11, "max_new_tokens": 24}
    snapshot = run.inputs.get(role="prompts").snapshot
    assert snapshot is not None
    assert snapshot.rows == 3
    rows = (run_folder(run.pk).parent.parent / "snapshots" / snapshot.name / "rows.jsonl").open()
    with rows:
        ids = [line.split('"')[3] for line in rows]
    in_order = round_.tasks.order_by("position").values_list("prompt_id", flat=True)
    assert ids == [str(pk) for pk in in_order]


def test_no_answers_are_drawn_where_none_are_waited_for() -> None:
    round_ = make_round(make_project())
    make_task(round_, kind="ranking")
    assert sampling_queue(round=round_) is None
    assert sampling_view(round_) is None


def test_a_chunk_opens_its_tasks_once_and_only_its_own() -> None:
    round_ = waiting_round()
    run = sampling_queue(round=round_)
    assert run is not None
    first, second, _ = round_.tasks.order_by("position")
    rows = answers(first) + answers(second)
    assert samples_import(run=run, rows=rows) == 4
    assert samples_import(run=run, rows=rows) == 0
    states = list(round_.tasks.order_by("position").values_list("state", flat=True))
    assert states == ["open", "open", "waiting"]
    assert Sample.objects.filter(task=first).count() == 2
    assert set(Sample.objects.values_list("version", flat=True)) == {round_.policy_id}


def test_answers_that_come_after_the_round_closed_open_nothing() -> None:
    round_ = waiting_round()
    run = sampling_queue(round=round_)
    assert run is not None
    token = claim(run)
    round_close(round=round_)
    assert beat(run, token).cancel
    task = round_.tasks.first()
    assert samples_import(run=run, rows=answers(task)) == 0
    task.refresh_from_db()
    assert task.state == Task.State.CLOSED


def test_tasks_whose_prompt_was_too_long_are_closed_when_sampling_is_done() -> None:
    round_ = waiting_round()
    run = sampling_queue(round=round_)
    assert run is not None
    answered = round_.tasks.order_by("position")[0]
    samples_import(run=run, rows=answers(answered))
    run_finish(run_id=run.pk, token=claim(run), outcome=DONE)
    states = list(round_.tasks.order_by("position").values_list("state", flat=True))
    assert states == ["open", "closed", "closed"]


def test_text_that_a_database_cannot_hold_is_stored_readable() -> None:
    round_ = waiting_round(1)
    run = sampling_queue(round=round_)
    assert run is not None
    task = round_.tasks.get()
    samples_import(run=run, rows=answers(task, text="a\x00b\ud800c"))
    assert set(Sample.objects.values_list("text", flat=True)) == {"a\ufffdb?c"}


def test_answers_to_be_scored_belong_to_no_task() -> None:
    project = make_project()
    make_prompts(project, 2)
    version = make_version(project)
    run = evaluation_sampling_queue(project=project, version=version, split="train", k=1)
    prompt = project.prompts.first()
    assert prompt is not None
    row = SampleRow(str(prompt.pk), 0, "Yes.", (5, 2), True, 0, 1.0, 48)
    for _ in range(2):
        samples_import(run=run, rows=[row])
    sample = Sample.objects.get()
    assert (sample.task, sample.version) == (None, version)
    with pytest.raises(BadInput, match="no prompts in the test split"):
        evaluation_sampling_queue(project=project, version=version)


def test_series_are_thinned_by_means_and_a_half_written_line_is_left_out() -> None:
    run = base_run()
    folder = run_folder(run.pk)
    folder.mkdir(parents=True)
    lines = [
        f'{{"step": {step}, "total": 5, "time": 0, "values": {{"loss": {step}.0, "kl": null}}}}\n'
        for step in range(1, 6)
    ]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 6, "tot')
    whole = run_series(run=run)
    assert whole == {"steps": [1, 2, 3, 4, 5], "series": {"loss": [1.0, 2.0, 3.0, 4.0, 5.0]}}
    thin = run_series(run=run, names=["loss", "kl"], points=3)
    assert thin == {
        "steps": [2, 4, 5],
        "series": {"loss": [1.5, 3.5, 5.0], "kl": [None, None, None]},
    }


def test_a_run_without_figures_has_empty_series() -> None:
    assert run_series(run=base_run()) == {"steps": [], "series": {}}
