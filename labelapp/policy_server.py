"""Talking to the process that keeps policies loaded (`python -m labelapp.serve`).

A model is called by the id of the run that made it. Nothing here waits long: a server that is
away, busy or empty means that the answers come later.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from django.conf import settings
from django.db import transaction

from labelapp.store import model_folder

logger = logging.getLogger(__name__)

Event = dict[str, Any]
LOOK_SECONDS = 2.0
FIRST_SECONDS = 60.0
"""How long to wait for the next line of a stream: others may be before us in the queue."""


class PolicyLater(Exception):
    """There are no live answers now; ``code`` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class PolicyRefuses(Exception):
    """This prompt is never answered; the message says why."""


@contextmanager
def _client(seconds: float) -> Iterator[httpx.Client]:
    if not settings.LABELAPP_SERVE_URL:
        raise PolicyLater("nowhere")
    headers = {"Authorization": f"Bearer {settings.LABELAPP_SERVE_TOKEN}"}
    timeout = httpx.Timeout(seconds, connect=LOOK_SECONDS)
    with httpx.Client(
        base_url=settings.LABELAPP_SERVE_URL, headers=headers, timeout=timeout, trust_env=False
    ) as client:
        try:
            yield client
        except (httpx.HTTPError, ValueError) as error:
            raise PolicyLater(type(error).__name__) from None


def policy_state() -> dict[str, Any]:
    """What the server has loaded. PolicyLater where it is away."""
    with _client(LOOK_SECONDS) as client:
        state = client.get("/health").raise_for_status().json()
        if not isinstance(state, dict) or not isinstance(state.get("models"), list):
            raise PolicyLater("token")
        return state


def policy_load(run_id: UUID) -> None:
    """Have a run's model loaded, beside what answers now; returns at once."""
    with _client(LOOK_SECONDS) as client:
        body = {"name": str(run_id), "folder": str(model_folder(run_id)), "wait": False}
        client.post("/v1/model", json=body).raise_for_status()


def policy_announce(run_id: UUID) -> None:
    """After commit, tell the server which model is current; beat says it again where that fails."""

    def tell() -> None:
        try:
            policy_load(run_id)
        except PolicyLater as later:
            logger.info("the policy server was not told of %s: %s", run_id, later.code)

    if settings.LABELAPP_SERVE_URL:
        transaction.on_commit(tell, robust=True)


def policy_answers(run_id: UUID, asked: Mapping[str, Any]) -> Iterator[Event]:
    """The lines of the stream, the last one ``end``. PolicyLater wherever that is not reached.

    A model that is not loaded is loaded for the next time.
    """
    body = {**asked, "model": str(run_id)}
    try:
        with (
            _client(FIRST_SECONDS) as client,
            client.stream("POST", "/v1/samples", json=body) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                _refused(answer.json())
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["event"] == "error":
                    _refused({"error": event})
                yield event
                if event["event"] == "end":
                    return
    except PolicyLater as later:
        if later.code in ("other_model", "no_model"):
            policy_load(run_id)
        raise
    raise PolicyLater("cut")


def _refused(plain: Any) -> None:
    error = plain.get("error", {})
    if error.get("code") in ("too_long", "refused"):
        raise PolicyRefuses(str(error.get("message", "")))
    raise PolicyLater(str(error.get("code", "error")))
