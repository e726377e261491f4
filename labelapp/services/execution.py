"""Carrying a run out: take it, start its stage as a child process, follow it, end it.

Whatever happens to the child, the database or the lease, the worker lives on: a child that dies
fails the run, a database that is away is waited for while the child goes on, and a lease that
another worker has taken ends the child here.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from labelapp.errors import LabelappError
from labelapp.models import Run
from labelapp.processes import STAGE_STOP_SECONDS
from labelapp.run_logs import MetricsTail, failure_sentence
from labelapp.selectors.judges import judges_of_run
from labelapp.services.priorities import priorities_update
from labelapp.services.run_leases import (
    run_cancelled,
    run_claim,
    run_fail,
    run_finish,
    run_heartbeat,
    run_release,
)
from labelapp.services.samples import samples_import
from labelapp.services.scores import scores_import
from labelapp.store import device_lock, model_folder, run_folder, snapshot_folder
from labelapp.trainer_gateway import (
    FOLDER_BUSY,
    STOPPED,
    Child,
    Outcome,
    SampleRow,
    ScoreRow,
    base_source,
    chunks,
    config_write,
    drawn_text_folder,
    is_finished,
    launch,
    outcome,
)

logger = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between two looks at the child."""
BUSY_SECONDS, BUSY_TRIES = 3.0, 40
"""How long to wait for a folder that the last owner's child still holds."""
DATABASE_AWAY = (OperationalError, InterfaceError)
DATABASE_SECONDS = 1.0

Answer = TypeVar("Answer")


@contextmanager
def _device() -> Iterator[None]:
    """Hold the device while a stage runs, beside other workers: who answers live prompts looks."""
    path = device_lock()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


class _Gone(Exception):
    """The run is not ours any more."""


class _Leaves(_Gone):
    """This worker was asked to end while the database is away; the lease will run out."""


def run_execute(*, run_id: UUID, worker: str, leaving: Callable[[], bool] = lambda: False) -> bool:
    """Carry out a run if it is there to be taken; False where there was nothing to do.

    ``leaving`` turns true when this worker is asked to end: the stage then writes a checkpoint
    and the run goes back to the queue.
    """
    try:
        token = _when_database_is_there(lambda: run_claim(run_id=run_id, worker=worker), leaving)
    except _Leaves:
        return False
    if token is None:
        return False
    _Execution(run_id, token, leaving).carry_out()
    return True


def run_config_write(run: Run) -> None:
    """Write config.json of a run: its settings and the folders of its inputs."""
    folders: dict[str, str | list[str]] = {}
    for given in run.inputs.select_related("snapshot", "version"):
        if given.snapshot is not None:
            folder = snapshot_folder(given.snapshot.name)
        elif given.version is not None:
            folder = model_folder(given.version.run_id)
        else:
            assert given.source_id is not None  # a constraint: exactly one of the three
            folder = _SOURCES.get(given.role, model_folder)(given.source_id)
        folders[given.role] = str(folder)
    if run.stage == Run.Stage.SCORE:
        folders = {role: folders[role] for role in ("model", "prompts", "samples")}
        folders["rewards"] = [str(model_folder(each.run_id)) for each in judges_of_run(run)]
    if run.stage == Run.Stage.BASE:
        folders.setdefault("source", run.settings.get("source") or base_source())
    if run.stage == Run.Stage.PPO and settings.LABELAPP_PRETRAIN_TEXT:
        given_text = str(Path(settings.LABELAPP_PRETRAIN_TEXT).expanduser())
        folders.setdefault("pretrain_text", given_text)
    config_write(run.pk, run.stage, run.settings, folders)


_SOURCES: dict[str, Callable[[UUID], Path]] = {
    "pretrain_text": drawn_text_folder,
    "samples": run_folder,
}
"""What is read of a run that a run is made from, by role; else the model that it trained."""


def _when_database_is_there(ask: Callable[[], Answer], leaving: Callable[[], bool]) -> Answer:
    """The answer, as soon as the database gives one."""
    told = False
    while True:
        try:
            return ask()
        except DATABASE_AWAY as error:
            connection.close()
            if not told:
                logger.warning("the database is away (%s); waiting for it", error)
                told = True
        if leaving():
            raise _Leaves("this worker leaves while the database is away")
        time.sleep(DATABASE_SECONDS)


class _Execution:
    """One run in this worker's hands."""

    def __init__(self, run_id: UUID, token: UUID, leaving: Callable[[], bool]) -> None:
        self.run_id = run_id
        self.token = token
        self.leaving = leaving
        self.cancel = False
        self.child: Child | None = None
        self.tail = MetricsTail(run_id)
        self.imported: set[str] = set()
        self.outages = 0
        self.checked = 0
        """The number of outages after which every chunk was looked at again."""
        self.next_beat = 0.0

    def carry_out(self) -> None:
        """From the claim to the end; nothing gets out of here but what ends the worker itself."""
        try:
            self._work()
        except _Gone as gone:
            logger.warning("run %s left alone: %s", self.run_id, gone)
            if isinstance(gone, _Leaves):
                self._checkpoint()
        except Exception as error:
            known = isinstance(error, LabelappError)
            logger.log(logging.ERROR, "run %s failed: %s", self.run_id, error, exc_info=not known)
            self._fail_last(str(error) if known else f"{type(error).__name__}: {error}")
        except BaseException:  # Ctrl-C where a command carries it out: others may have it at once
            if self.child is not None:
                self.child.kill()
            run_release(run_id=self.run_id, token=self.token)
            raise
        finally:
            if self.child is not None:
                self.child.kill()

    def _work(self) -> None:
        run = self._ask(lambda: Run.objects.get(pk=self.run_id))
        token = {"run_id": self.run_id, "token": self.token}
        with _device():
            code = 0 if is_finished(self.run_id) else self._train(run)
        self._beat(now=True)  # its last figures
        if is_finished(self.run_id):
            made = self._verified()
            self._ask(lambda: self._finish(run, made))
        elif self.cancel:
            self._ask(lambda: run_cancelled(**token))
        elif self._leaves(code):
            self._ask(lambda: run_release(**token))
        else:
            error = failure_sentence(self.run_id, code)
            logger.error("run %s (%s) failed: %s", self.run_id, run.stage, error)
            self._ask(lambda: run_fail(**token, error=error))

    def _train(self, run: Run) -> int:
        """Start the stage and follow it to its end; its exit code."""
        self._ask(lambda: run_config_write(run))
        code = FOLDER_BUSY
        for _ in range(BUSY_TRIES):
            self.child = launch(self.run_id, run.stage, run.attempt)
            code = self._follow(run, self.child)
            if code != FOLDER_BUSY or self.cancel or self.leaving():
                break
            wake = time.monotonic() + BUSY_SECONDS
            while time.monotonic() < wake:
                time.sleep(TICK)
                self._beat()
        return code

    def _follow(self, run: Run, child: Child) -> int:
        asked: float | None = None
        while (code := child.poll()) is None:
            self._beat()
            try:
                self._import_chunks(run)
            except DATABASE_AWAY:
                self._away()  # the next look brings them in
            if asked is None and (self.cancel or self.leaving()):
                child.ask_to_stop()
                asked = time.monotonic()
            elif asked is not None and time.monotonic() - asked > STAGE_STOP_SECONDS:
                child.kill()
            time.sleep(TICK)
        return code

    def _checkpoint(self) -> None:
        """Let the child write one and end."""
        if self.child is not None:
            self.child.ask_to_stop()
            wait_until = time.monotonic() + STAGE_STOP_SECONDS
            while self.child.poll() is None and time.monotonic() < wait_until:
                time.sleep(TICK)

    def _leaves(self, code: int) -> bool:
        """Whether this worker goes. Who stops a whole group stops the child a little earlier."""
        wait_until = time.monotonic() + (2.0 if code == STOPPED else 0.0)
        while not self.leaving() and time.monotonic() < wait_until:
            time.sleep(0.1)
        return self.leaving()

    def _verified(self) -> Outcome:
        """Hash what was made, which takes a while for large models, and keep the lease meanwhile."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            made = pool.submit(outcome, self.run_id)
            while not made.done():
                time.sleep(0.05)
                self._beat()
            return made.result()

    def _finish(self, run: Run, made: Outcome) -> None:
        self._import_chunks(run)
        while self.checked != self.outages:
            self._import_chunks(run)
        if run.stage == Run.Stage.SCORE:
            for _ in priorities_update(run=run):
                self._beat()
        run_finish(run_id=self.run_id, token=self.token, outcome=made)

    def _import_chunks(self, run: Run) -> None:
        """Bring in answers, or scores of answers, as soon as their chunk is finished.

        After an outage every chunk is looked at again: a database that does not wait for its disk
        may have forgotten what it had said yes to.
        """
        if self.checked != self.outages:
            self.checked = self.outages
            self.imported.clear()
        if run.stage == Run.Stage.SAMPLE:
            for drawn in chunks(self.run_id, self.imported, SampleRow):
                samples_import(run=run, rows=drawn.rows)
                self.imported.add(drawn.name)
                self._beat()
        elif run.stage == Run.Stage.SCORE:
            for scored in chunks(self.run_id, self.imported, ScoreRow):
                scores_import(run=run, rows=scored.rows)
                self.imported.add(scored.name)
                self._beat()

    def _away(self) -> None:
        """The database is away; this connection is of no use any more."""
        connection.close()
        self.outages += 1

    def _beat(self, *, now: bool = False) -> None:
        """Renew the lease and show the progress, when it is time."""
        if not now and time.monotonic() < self.next_beat:
            return
        progress = self.tail.read()
        try:
            beat = run_heartbeat(
                run_id=self.run_id,
                token=self.token,
                step=progress.step,
                total=progress.total,
                figures=progress.figures,
            )
        except DATABASE_AWAY as error:
            self._away()
            logger.warning("no heartbeat of run %s: the database is away (%s)", self.run_id, error)
            self.next_beat = time.monotonic() + DATABASE_SECONDS
            return
        if not beat.held:
            raise _Gone("another worker has taken it")
        self.cancel = self.cancel or beat.cancel
        self.next_beat = time.monotonic() + settings.RUN_HEARTBEAT_SECONDS

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        def counted() -> Answer:
            try:
                return ask()
            except DATABASE_AWAY:
                self._away()
                raise

        return _when_database_is_there(counted, self.leaving)

    def _fail_last(self, error: str) -> None:
        """Say that the run failed; if even that fails, its lease runs out and others take it."""
        try:
            self._ask(lambda: run_fail(run_id=self.run_id, token=self.token, error=error))
        except Exception:
            logger.exception("run %s could not be marked as failed", self.run_id)
