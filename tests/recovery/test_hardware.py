"""A run on two processes, as a hardware profile asks for: whole, stopped, broken, orphaned."""

import json
from typing import Any

import psutil
import pytest

from labelapp.models import Project, Run, Task
from labelapp.services.execution import run_execute
from labelapp.services.rounds import instructions_add, round_open
from labelapp.services.runs import run_cancel, run_retry
from labelapp.store import run_folder
from tests.factories import make_prompts
from tests.recovery.conftest import eventually, meanwhile, stage_processes, stood_still
from trainer.records import SampleRow, read_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900),
]

PROMPTS = 24


@pytest.fixture
def run(tiny_project: Project, settings: Any) -> Run:
    """Answers to a round's prompts, a chunk for each, on two processes."""
    settings.LABELAPP_HARDWARE = "cpu-2"
    make_prompts(tiny_project, PROMPTS)
    instructions_add(project=tiny_project, body="Be helpful first.")
    wanted = {"demonstrations_wanted": 0, "rankings_wanted": PROMPTS}
    round_open(project=tiny_project, k=4, max_new_tokens=40, **wanted)
    made = Run.objects.get(stage=Run.Stage.SAMPLE)
    made.settings |= {"chunk": 1}
    made.save(update_fields=["settings"])
    return made


def carry_out(run: Run) -> Run:
    assert run_execute(run_id=run.pk, worker="test")
    run.refresh_from_db()
    return run


def texts(run: Run) -> dict[str, str]:
    """What was drawn, by sample."""
    chunks = sorted((run_folder(run.pk) / "chunks").iterdir())
    rows = [row for chunk in chunks for row in read_rows(chunk / "rows.jsonl", SampleRow)]
    return {f"{row.prompt_id}/{row.index}": row.text for row in rows}


def test_two_processes_draw_what_one_draws(run: Run, settings: Any) -> None:
    seen: list[int] = []
    with meanwhile(run, lambda: seen.append(len(stage_processes()))):
        carry_out(run)
    assert (run.state, run.error, seen) == (Run.State.DONE, "", [2])
    assert not Task.objects.exclude(state=Task.State.OPEN).exists()
    drawn = texts(run)
    assert len(drawn) == 4 * PROMPTS

    settings.LABELAPP_HARDWARE = "default"
    alone = Run.objects.create(project=run.project, stage=run.stage, settings=run.settings)
    for given in run.inputs.all():
        given.pk, given.run = None, alone
        given.save()
    assert carry_out(alone).state == Run.State.DONE, alone.error
    assert texts(alone) == drawn


def test_stop_ends_both_and_a_retry_goes_on_with_one(run: Run, settings: Any) -> None:
    def stop() -> None:
        with stood_still():
            run_cancel(run=run)

    with meanwhile(run, stop, steps=2):
        carry_out(run)
    assert run.state == Run.State.CANCELLED
    assert json.loads((run_folder(run.pk) / "error.json").read_text())["code"] == 9
    assert stage_processes() == []
    done = len(texts(run)) // 4
    assert 2 <= done < PROMPTS
    settings.LABELAPP_HARDWARE = "default"
    assert carry_out(run_retry(run=run)).state == Run.State.DONE
    assert len(texts(run)) == 4 * PROMPTS


def test_one_of_them_killed_fails_the_run_and_a_retry_goes_on(run: Run) -> None:
    with meanwhile(run, lambda: stage_processes()[-1].kill(), steps=2):
        carry_out(run)
    assert run.state == Run.State.FAILED
    assert "signal 9" in run.error or "Another process of this run ended" in run.error
    assert stage_processes() == []
    assert carry_out(run_retry(run=run)).state == Run.State.DONE
    assert len(texts(run)) == 4 * PROMPTS


def test_they_end_with_their_launcher(run: Run) -> None:
    orphans: list[psutil.Process] = []

    def kill_launcher() -> None:
        orphans.extend(stage_processes())
        orphans[0].parent().kill()  # type: ignore[union-attr]

    with meanwhile(run, kill_launcher, steps=2):
        carry_out(run)
    assert (run.state, len(orphans)) == (Run.State.FAILED, 2)
    eventually(lambda: not any(map(psutil.Process.is_running, orphans)), what="their end")
