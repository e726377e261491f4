"""Nudges are hints over a real broker: sent after commit, swept when missed, never piling up."""

import base64
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import transaction

from labelapp import tasks
from labelapp.models import Run
from labelapp.services.runs import run_queue
from labelapp.tasks import BACKLOG, GPU_QUEUE, run_execute, runs_nudge, sweep
from tests.factories import make_project

pytestmark = pytest.mark.django_db(transaction=True)


class Broker:
    """The GPU queue of the test broker, as a list in Valkey."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __len__(self) -> int:
        return int(self.client.llen(GPU_QUEUE))

    def take(self) -> list[str]:
        """The run ids that were sent, oldest first; the queue is empty after."""
        found = []
        while message := self.client.rpop(GPU_QUEUE):
            args, _, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
            found.append(args[0])
        return found


@pytest.fixture(autouse=True)
def broker() -> Iterator[Broker]:
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
        client.delete(GPU_QUEUE)
        yield Broker(client)
        client.delete(GPU_QUEUE)


def test_the_queue_is_that_of_this_process_alone() -> None:
    """Workers of a test in another process would take what is sent here."""
    assert os.environ["REDIS_URL"] == settings.CELERY_BROKER_URL


def queued_run() -> Run:
    return run_queue(project=make_project(f"p{uuid.uuid4().hex[:8]}"), stage=Run.Stage.BASE)


def test_a_nudge_goes_out_after_commit_and_not_after_a_rollback(broker: Broker) -> None:
    with transaction.atomic():
        run = queued_run()
        runs_nudge()
        assert len(broker) == 0
    assert broker.take() == [str(run.pk)]

    def rolled_back() -> None:
        with transaction.atomic():
            queued_run()
            runs_nudge()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        rolled_back()
    assert len(broker) == 0


def test_the_sweep_sends_what_nobody_was_told_of(broker: Broker) -> None:
    ready, left = queued_run(), queued_run()
    waits = run_queue(project=ready.project, stage=Run.Stage.TEXT, inputs={"model": ready})
    Run.objects.filter(pk=left.pk).update(
        state="running", lease_token=uuid.uuid4(), lease_until="2020-01-01T00:00Z"
    )
    sweep()
    sent = broker.take()
    assert set(sent) == {str(ready.pk), str(left.pk)}
    assert str(waits.pk) not in sent


@pytest.mark.slow
def test_nudges_do_not_pile_up_while_every_worker_is_busy(broker: Broker) -> None:
    for _ in range(3):
        queued_run()
    for _ in range(BACKLOG):
        sweep()
    assert BACKLOG <= len(broker) < BACKLOG + 3


def test_a_broker_that_is_away_costs_the_page_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise tasks.run_execute.OperationalError("Connection refused")

    monkeypatch.setattr(run_execute, "delay", away)
    with transaction.atomic():
        queued_run()
        runs_nudge()
    assert Run.objects.count() == 1


def test_a_task_for_a_run_that_is_gone_or_taken_does_nothing() -> None:
    run_execute.apply(args=[str(uuid.uuid4())], throw=True)
    run = queued_run()
    Run.objects.filter(pk=run.pk).update(state="done")
    run_execute.apply(args=[str(run.pk)], throw=True)
    run.refresh_from_db()
    assert run.attempt == 0
