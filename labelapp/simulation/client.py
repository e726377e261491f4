"""The labelers' side of HTTP: the sign-in page with its CSRF token, then the JSON API.

Everything is asked again with the same content after a lost connection, a server error or "too
many requests"; submits carry a client id, so that asking twice counts once.
"""

import logging
import time
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from labelapp.errors import LabelappError

log = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds of trying again before a request is given up."""
LONGEST_PAUSE = 5.0
SIGN_IN = "/sign-in/"


class SimulationError(LabelappError):
    """A simulated labeler cannot go on; the message says what to do."""


class Refused(SimulationError):
    """The server understood and said no (a 4xx status)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def origin_of(url: str) -> str:
    """Scheme, host and port of an address. Raises SimulationError for anything else."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SimulationError(f"{url} is no address; give one like http://127.0.0.1:8000.")
    return f"{parts.scheme}://{parts.netloc}"


class LabelerClient:
    """One person's browser, so to speak: cookies, token and patience. Use it as a context."""

    def __init__(
        self, url: str, username: str, password: str, *, patience: float = PATIENCE
    ) -> None:
        self.origin = origin_of(url)
        self.username = username
        self._password = password
        self._patience = patience
        self._http = httpx.Client(
            base_url=self.origin, timeout=60, headers={"Referer": f"{self.origin}/"}
        )

    def __enter__(self) -> "LabelerClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def sign_in(self) -> None:
        """Get the page, post the form. Raises SimulationError when the server says no."""
        self._http.cookies.clear()
        self._ask("GET", SIGN_IN)
        form = {
            "username": self.username,
            "password": self._password,
            "csrfmiddlewaretoken": self._token(),
        }
        answer = self._ask("POST", SIGN_IN, data=form)
        if answer.status_code != 302:
            raise SimulationError(
                f"{self.username} could not sign in (status {answer.status_code})."
                " Does another simulate_labelers use the same names? Give this one a --prefix."
            )

    def post(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        """Post JSON; a session that was lost is renewed once. Refused for a 4xx status."""
        answer = self._post(path, data)
        if answer.status_code in (401, 403):
            self.sign_in()
            answer = self._post(path, data)
        if answer.status_code >= 400:
            raise Refused(
                f"{path} answered {answer.status_code}: {_sentence(answer)}", answer.status_code
            )
        body: dict[str, Any] = answer.json()
        return body

    def _post(self, path: str, data: dict[str, Any]) -> httpx.Response:
        return self._ask("POST", path, json=data, headers={"X-CSRFToken": self._token()})

    def _token(self) -> str:
        return self._http.cookies.get("csrftoken") or ""

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request, tried again until it is answered or patience ends."""
        until = time.monotonic() + self._patience
        pause = 0.2
        while True:
            try:
                answer = self._http.request(method, path, **content)
            except httpx.TransportError as error:
                why, wait = f"{type(error).__name__}: {error}", pause
            else:
                if answer.status_code != 429 and answer.status_code < 500:
                    return answer
                why, wait = f"status {answer.status_code}", _retry_after(answer, pause)
            if time.monotonic() + wait > until:
                raise SimulationError(
                    f"{self.origin}{path} cannot be used ({why}). Is labelapp running there?"
                )
            log.info("%s: %s %s: %s; again in %.1f s", self.username, method, path, why, wait)
            time.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)


def _retry_after(answer: httpx.Response, pause: float) -> float:
    """How long the server asks to wait; else the growing pause."""
    asked = answer.headers.get("Retry-After", "")
    return max(float(asked), pause) if asked.isdigit() else pause


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
