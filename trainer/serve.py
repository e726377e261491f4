"""``python -m trainer serve``: keep a policy loaded and answer over HTTP until SIGTERM.

    GET  /health      {"status": ready, loading or empty}; with the token also models, errors, busy
    POST /v1/model    {"name", "folder", "wait": true}: load beside, then answer with it
    POST /v1/samples  trainer.policies.Request: K answers as JSON lines, as they are drawn

The lines are {"event": "start" | "text" | "answer" | "end" | "error", ...}: ``text`` holds what is
new of answer ``index``, ``answer`` the whole of it with its token ids; a stream without ``end`` was
cut. Refusals are {"error": {"code", "message"}} with 400, 401, 409 (another model is loaded), 422
(cannot be answered) or 503 with Retry-After (``full``, ``training``, ``no_model``, ``loading``,
``stopping``). Every POST needs the header ``Authorization: Bearer TOKEN``, SERVE_TOKEN's value.
"""

import hmac
import json
import os
import queue
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.config import ServeConfig
from trainer.errors import ConfigError, TrainerError
from trainer.policies import Event, Job, Policies, Refused, request_of
from trainer.stage_io import die_with_parent

TOKEN_VARIABLE = "SERVE_TOKEN"
TOKEN_LENGTH = 16
BODY_BYTES = 2**20
_SILENCE = 0.5  # seconds between two looks whether the server ends while a job says nothing


def run(config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C. ConfigError without a token or where the port is taken."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < TOKEN_LENGTH:
        raise ConfigError(
            f"Set {TOKEN_VARIABLE} in the environment to a secret of at least {TOKEN_LENGTH} characters."
        )
    die_with_parent()
    policies = Policies(config)
    try:
        server = Server(config, policies, token)
    except OSError as error:
        policies.stop()
        raise ConfigError(
            f"{config.host}:{config.port} cannot be listened on ({error.strerror})."
        ) from None
    before = _on_signals(server)
    try:
        if config.model:
            name = config.name or Path(config.model).name
            threading.Thread(target=_load_first, args=(policies, name, config), daemon=True).start()
        print(f"serve: listening on {config.host}:{server.server_port}", flush=True)
        server.serve_forever(poll_interval=0.2)
    finally:
        policies.stop()
        server.server_close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signals(server: "Server") -> dict[int, Any]:
    def end(_number: int, _frame: FrameType | None) -> None:
        server.policies.stopping.set()
        threading.Thread(target=server.shutdown, daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}


def _load_first(policies: Policies, name: str, config: ServeConfig) -> None:
    try:
        policies.load(name, config.model)
    except Refused as refused:
        print(f"serve: {refused.message}", file=sys.stderr, flush=True)


class Server(ThreadingHTTPServer):
    """Each connection has a thread; one thread of ``policies`` draws."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, config: ServeConfig, policies: Policies, token: str) -> None:
        self.policies = policies
        self.token = token
        if ":" in config.host:
            self.address_family = socket.AF_INET6
        super().__init__((config.host, config.port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Server
    timeout = 30  # seconds of silence from a client
    server_version = "trainer"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path != "/health":
            self._refuse(Refused(404, "not_found", "There is nothing at this address."))
            return
        state = self.server.policies.state()
        self._send(200, state if self._known() else {"status": state["status"]})

    def do_POST(self) -> None:
        try:
            body = self._body()
            if not self._known():
                raise Refused(401, "token", "The token is missing or wrong.")
            if self.path == "/v1/samples":
                self._samples(body)
            elif self.path == "/v1/model":
                self._model(body)
            else:
                raise Refused(404, "not_found", "There is nothing at this address.")
        except Refused as refused:
            self._refuse(refused)

    def _known(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES:
            self.rfile.read(min(int(length), 8 * BODY_BYTES) if length.isdecimal() else 0)
            raise Refused(400, "bad_request", f"Send JSON of at most {BODY_BYTES:,} bytes.")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "bad_request", "The body is not JSON.") from None

    def _model(self, body: Any) -> None:
        name = body.get("name") if isinstance(body, dict) else None
        folder = body.get("folder") if isinstance(body, dict) else None
        if not isinstance(name, str) or not isinstance(folder, str) or not name or not folder:
            raise Refused(400, "bad_request", "Send the name and the folder of a model.")
        policies = self.server.policies
        if body.get("wait", True):
            policies.load(name, folder)
            self._send(200, policies.state())
            return
        threading.Thread(target=_load_quietly, args=(policies, name, folder), daemon=True).start()
        self._send(202, policies.state())

    def _samples(self, body: Any) -> None:
        with self.server.policies.ask(request_of(body)) as job:
            first = self._next(job)
            if isinstance(first, Refused):
                raise first
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            event: Event | Refused = first
            while not isinstance(event, Refused):
                self._line(event)
                if event["event"] == "end":
                    return
                event = self._next(job)
            self._line(event.event())

    def _next(self, job: Job) -> Event | Refused:
        while True:
            try:
                return job.events.get(timeout=_SILENCE)
            except queue.Empty:
                if self.server.policies.stopping.is_set():
                    return Refused(503, "stopping", "The server is ending.", retry_after=10)

    def _line(self, event: Event) -> None:
        self.wfile.write(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.wfile.flush()

    def _refuse(self, refused: Refused) -> None:
        plain = {"error": {"code": refused.code, "message": refused.message}}
        self._send(refused.status, plain, retry_after=refused.retry_after)

    def _send(self, status: int, plain: dict[str, Any], retry_after: int = 0) -> None:
        data = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a line for every health look would say nothing."""


def _load_quietly(policies: Policies, name: str, folder: str) -> None:
    try:
        policies.load(name, folder)
        print(f"serve: {name} answers now", flush=True)
    except (Refused, TrainerError) as error:
        print(f"serve: {getattr(error, 'message', error)}", file=sys.stderr, flush=True)
