"""Whatever happens to a stage's process, its run ends well or says why, and a retry goes on."""

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from labelapp.errors import TrainerFailed
from labelapp.models import ModelVersion, Project, Run
from labelapp.run_logs import metrics_lines
from labelapp.services import execution
from labelapp.services.execution import run_execute
from labelapp.services.run_leases import run_claim
from labelapp.services.runs import base_queue, run_cancel, run_queue, run_retry
from labelapp.store import model_folder, run_folder
from labelapp.trainer_gateway import drawn_text_folder, is_finished
from tests.factories import make_project
from tests.recovery.conftest import eventually, meanwhile, stage_processes, stood_still

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900),
]


def long_run(project: Project, documents: int = 40) -> Run:
    """A stage that takes some seconds and logs a step for every document."""
    version = ModelVersion.objects.get(project=project)
    return run_queue(
        project=project,
        stage=Run.Stage.TEXT,
        inputs={"model": version},
        overrides={"documents": documents, "batch": 1},
    )


def carry_out(run: Run, **how: object) -> Run:
    assert run_execute(run_id=run.pk, worker="test", **how)  # type: ignore[arg-type]
    run.refresh_from_db()
    return run


def test_the_base_model_becomes_the_current_version_once(
    settings, store: Path, tiny_folder: Path
) -> None:
    settings.LABELAPP_BASE_MODEL = str(tiny_folder)
    run = carry_out(base_queue(project=make_project()))
    assert run.state == Run.State.DONE, run.error
    version = ModelVersion.objects.get()
    assert (version.run, version.state, len(version.sha256)) == (run, "current", 64)
    assert (model_folder(run.pk) / "config.json").is_file()
    assert stage_processes() == []
    assert not run_execute(run_id=run.pk, worker="again")


def test_a_stage_that_refuses_fails_the_run_with_its_own_sentence(
    settings, store: Path, tmp_path: Path
) -> None:
    settings.LABELAPP_BASE_MODEL = str(tmp_path / "nothing here")
    run = carry_out(base_queue(project=make_project()))
    assert run.state == Run.State.FAILED
    told = json.loads((run_folder(run.pk) / "error.json").read_text())["message"]
    assert run.error == told


def test_a_process_killed_by_the_kernel_fails_the_run_and_a_retry_goes_on(
    tiny_project: Project,
) -> None:
    run = long_run(tiny_project)
    with meanwhile(run, lambda: stage_processes()[0].kill(), steps=5):
        carry_out(run)
    assert run.state == Run.State.FAILED
    assert run.error.startswith("The training process was killed by the kernel (signal 9)")
    assert run.error.endswith(f"step {run.step} of 40.")
    kept = metrics_lines(run.pk)
    run = carry_out(run_retry(run=run))
    assert (run.state, run.fraction, run.error) == (Run.State.DONE, 1.0, "")
    whole = metrics_lines(run.pk)
    assert whole[: len(kept)] == kept
    drawn = drawn_text_folder(run.pk).glob("[0-9]*.txt")  # a killed write leaves a hidden one too
    assert len(list(drawn)) == 40


def test_stop_lets_the_stage_end_itself_and_a_retry_goes_on(tiny_project: Project) -> None:
    run = long_run(tiny_project)

    def stop() -> None:
        with stood_still():
            run_cancel(run=run)

    with meanwhile(run, stop, steps=2):
        carry_out(run)
    assert run.state == Run.State.CANCELLED
    assert json.loads((run_folder(run.pk) / "error.json").read_text())["code"] == 9
    done = len(metrics_lines(run.pk))
    assert 2 <= done < 40
    assert carry_out(run_retry(run=run)).state == Run.State.DONE


def test_a_worker_that_leaves_gives_the_run_back(tiny_project: Project) -> None:
    run, leaving = long_run(tiny_project), threading.Event()

    def leave() -> None:
        with stood_still():
            leaving.set()

    with meanwhile(run, leave, steps=2):
        carry_out(run, leaving=leaving.is_set)
    assert (run.state, run.lease_token, run.attempt) == (Run.State.QUEUED, None, 0)
    assert stage_processes() == []
    assert carry_out(run).state == Run.State.DONE


def test_a_worker_whose_lease_was_taken_ends_its_own_child_and_writes_no_more(
    tiny_project: Project,
) -> None:
    run = long_run(tiny_project, documents=400)

    def take() -> None:
        Run.objects.filter(pk=run.pk).update(lease_until="2020-01-01T00:00Z")
        assert run_claim(run_id=run.pk, worker="the other") is not None

    with meanwhile(run, take):
        carry_out(run)
    assert (run.state, run.worker) == (Run.State.RUNNING, "the other")
    assert stage_processes() == []


def test_a_folder_that_a_dying_process_still_holds_is_waited_for(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "BUSY_SECONDS", 0.1)
    run = long_run(tiny_project, documents=2)
    folder = run_folder(run.pk)
    folder.mkdir(parents=True)
    with (folder / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def let_go() -> None:
            log = folder / "log.txt"
            eventually(lambda: log.is_file() and "Another process" in log.read_text())
            fcntl.flock(held, fcntl.LOCK_UN)

        with meanwhile(run, let_go, steps=0):
            carry_out(run)
    assert run.state == Run.State.DONE


def test_a_result_that_nobody_registered_is_registered_without_training_again(
    tiny_project: Project,
) -> None:
    run = carry_out(long_run(tiny_project, documents=2))
    log = (run_folder(run.pk) / "log.txt").read_bytes()
    Run.objects.filter(pk=run.pk).update(state=Run.State.QUEUED)
    assert is_finished(run.pk)
    assert carry_out(run).state == Run.State.DONE
    assert (run_folder(run.pk) / "log.txt").read_bytes() == log


def test_a_damaged_result_fails_the_run(tiny_project: Project) -> None:
    run = carry_out(long_run(tiny_project, documents=2))
    next(drawn_text_folder(run.pk).iterdir()).write_text("tampered")
    Run.objects.filter(pk=run.pk).update(state=Run.State.QUEUED)
    assert carry_out(run).state == Run.State.FAILED
    assert "is not what its manifest says" in run.error


def test_a_stage_never_sees_the_sites_secrets(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "not for children")
    run, seen = long_run(tiny_project), {}
    with meanwhile(run, lambda: seen.update(stage_processes()[0].environ())):
        carry_out(run)
    assert seen["LABELAPP_PARENT_PID"] == str(os.getpid())
    assert not {"SECRET_KEY", "PSEUDONYM_KEY", "DATABASE_URL", "REDIS_URL"} & set(seen)


def test_a_process_that_cannot_be_started_fails_the_run(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TrainerFailed("The training process could not be started: no memory.")

    monkeypatch.setattr(execution, "launch", refuse)
    run = carry_out(long_run(tiny_project))
    assert (run.state, run.error) == (
        Run.State.FAILED,
        "The training process could not be started: no memory.",
    )
