"""Killing the training child, the GPU worker or the database loses no label and no run."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection
from pytest_django import Settings

from labelapp.models import (
    Demonstration,
    ModelVersion,
    Project,
    Ranking,
    Round,
    Run,
    Sample,
    Task,
    Training,
)
from labelapp.selectors.registry import current_version
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit, text_submit
from labelapp.services.rounds import instructions_add, round_close, round_open
from labelapp.services.runs import evaluation_sampling_queue
from labelapp.services.trainings import training_retry, training_start
from labelapp.services.versions import version_promote
from labelapp.store import model_folder, run_folder
from labelapp.tasks import run_execute
from tests.factories import client_id, make_member, make_project, make_prompts, make_version
from tests.recovery.conftest import eventually, stage_processes
from tests.recovery.site import Site, site_in, stage_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LONG = 300.0


@pytest.fixture(params=["durable"])
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    settings: Settings,
    django_db_blocker: pytest.FixtureRequest,
) -> Iterator[Site]:
    with (
        django_db_blocker.unblock(),  # type: ignore[attr-defined]
        site_in(
            tmp_path_factory.mktemp("site"), settings, durable=request.param == "durable"
        ) as made,
    ):
        yield made


def project_of(tiny_folder: Path, prompts: int = 8) -> Project:
    project = make_project(min_demonstrations=2, min_rankings=2)
    version = make_version(project, state="current")
    shutil.copytree(tiny_folder, model_folder(version.run_id))
    instructions_add(project=project, body="Be helpful first.")
    make_prompts(project, prompts)
    return project


def ended(run: Run) -> Callable[[], bool]:
    """Whether the run has come to an end."""

    def look() -> bool:
        run.refresh_from_db()
        return run.state not in (Run.State.QUEUED, Run.State.RUNNING)

    return look


def state_is(row: Run | Training, state: str) -> Callable[[], bool]:
    def look() -> bool:
        row.refresh_from_db()
        return row.state == state

    return look


def label_all(round_: Round) -> int:
    """Hand in every open task of the round by one person; returns how many."""
    labeler = make_member(round_.project)
    done = 0
    while claimed := assignment_claim_next(project=round_.project, labeler=labeler):
        handed_in = {"assignment_id": claimed.pk, "labeler": labeler, "client_id": client_id()}
        if claimed.task.kind == Task.Kind.DEMONSTRATION:
            text_submit(**handed_in, text="A short answer in plain words.")
        else:
            letters = "ABCDEFGHI"[: len(claimed.shown_order)]
            ranking_submit(**handed_in, groups=[[letter] for letter in letters])
        done += 1
    return done


def test_a_round_ends_whole_though_child_worker_and_database_are_killed(
    site: Site, tiny_folder: Path
) -> None:
    project = project_of(tiny_folder)
    round_ = round_open(
        project=project, demonstrations_wanted=4, rankings_wanted=4, k=2, max_new_tokens=8
    )
    site.start("worker"), site.start("beat")
    gpu = site.start("worker-gpu")
    labels = label_all(round_)
    waiting = round_.tasks.filter(state=Task.State.WAITING)
    eventually(lambda: not waiting.exists(), LONG, "answers to every prompt")
    labels += label_all(round_)
    assert labels == 8

    training = training_start(round=round_)
    stage_of(gpu, "sft").kill()  # 1. the training child
    eventually(state_is(training, "failed"), LONG, "the failure of the training")
    failed = training.runs.get(stage="sft")
    assert "killed by the kernel (signal 9)" in failed.error
    assert gpu.poll() is None
    training_retry(training=training)

    child = stage_of(gpu, "reward")  # 2. the GPU worker
    gpu.kill()
    gpu.wait()
    eventually(lambda: not child.is_running(), 10, "the end of the orphan")
    reward = training.runs.get(stage="reward")
    assert reward.state == Run.State.RUNNING
    gpu = site.start("worker-gpu")
    stage_of(gpu, "reward", 90)

    stage_of(gpu, "ppo", LONG)  # 3. the database
    site.kill_database()
    site.servers.start()
    eventually(state_is(training, "done"), LONG, "the end of the training")

    assert Demonstration.objects.count() + Ranking.objects.count() == labels
    made = ModelVersion.objects.filter(run__training=training).values_list("run__stage", flat=True)
    assert sorted(made) == ["ppo", "reward", "sft"]
    round_close(round=round_)
    version_promote(version=training.runs.get(stage="ppo").version, by=None)
    second = round_open(
        project=project, demonstrations_wanted=0, rankings_wanted=3, k=2, max_new_tokens=8
    )
    assert second.policy == current_version(project=project)
    eventually(lambda: second.tasks.filter(state=Task.State.OPEN).count() == 3, LONG, "round two")
    answered_by = Sample.objects.filter(task__round=second).values_list("version", flat=True)
    assert set(answered_by) == {second.policy_id}
    assert label_all(second) == 3


def test_a_run_that_is_delivered_many_times_is_carried_out_once(
    site: Site, tiny_folder: Path
) -> None:
    project = project_of(tiny_folder)
    version = current_version(project=project)
    assert version is not None
    run = evaluation_sampling_queue(project=project, version=version, split="train", k=2)
    with Connection(site.environment["REDIS_URL"]) as broker:
        for _ in range(6):
            run_execute.apply_async([str(run.pk)], connection=broker)
    workers = [site.start("worker-gpu"), site.start("worker-gpu")]
    eventually(ended(run), LONG, "the end of the run")
    assert run.state == Run.State.DONE, run.error
    assert Sample.objects.filter(run=run).count() == 16
    assert (run_folder(run.pk) / "log.txt").read_text().count("--- sample, attempt") == 1
    assert [worker.poll() for worker in workers] == [None, None]


def test_a_gpu_worker_that_is_asked_to_end_hands_its_run_to_the_next(
    site: Site, tiny_folder: Path
) -> None:
    project = project_of(tiny_folder, prompts=60)
    version = current_version(project=project)
    assert version is not None
    run = evaluation_sampling_queue(
        project=project, version=version, split="train", k=8, max_new_tokens=80
    )
    site.start("worker"), site.start("beat")
    gpu = site.start("worker-gpu")
    child = stage_of(gpu, "sample")
    chunks = run_folder(run.pk) / "chunks"
    eventually(lambda: list(chunks.glob("*/manifest.json")), LONG, "the first chunk")
    gpu.send_signal(signal.SIGTERM)
    gpu.wait(60)
    assert not child.is_running()
    run.refresh_from_db()
    assert (run.state, run.attempt) == (Run.State.QUEUED, 0)
    first = (chunks / "0000" / "manifest.json").stat().st_mtime_ns
    site.start("worker-gpu")
    eventually(ended(run), LONG, "the end of the run")
    assert run.state == Run.State.DONE, run.error
    assert Sample.objects.filter(run=run).count() == 480
    assert (chunks / "0000" / "manifest.json").stat().st_mtime_ns == first
    assert stage_processes() == []


@pytest.mark.parametrize("site", ["durable", "forgets its last commits"], indirect=True)
def test_a_database_that_is_away_costs_a_run_neither_its_process_nor_its_answers(
    site: Site, tiny_folder: Path
) -> None:
    project = project_of(tiny_folder, prompts=60)
    round_ = round_open(
        project=project, demonstrations_wanted=0, rankings_wanted=60, k=6, max_new_tokens=64
    )
    run = round_.runs.get()
    site.start("worker"), site.start("beat")
    gpu = site.start("worker-gpu")
    chunks = run_folder(run.pk) / "chunks"

    def finished_chunks() -> int:
        return len(list(chunks.glob("*/manifest.json")))

    eventually(lambda: finished_chunks() >= 2, LONG, "two chunks")
    (child,) = stage_processes(gpu.pid)
    site.kill_database()
    before = finished_chunks()
    eventually(lambda: finished_chunks() > before, LONG, "a chunk without a database")
    assert child.is_running() or (run_folder(run.pk) / "manifest.json").exists()
    site.servers.start()
    eventually(ended(run), LONG, "the end of the run")
    assert (run.state, run.attempt) == (Run.State.DONE, 1), run.error
    assert gpu.poll() is None
    assert Sample.objects.filter(run=run).count() == 360
    assert round_.tasks.filter(state=Task.State.OPEN).count() == 60
