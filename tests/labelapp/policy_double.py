"""What speaks like the policy server, for tests without a model."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer(ThreadingHTTPServer):
    """Speaks as ``python -m trainer serve`` does, without a model."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusal: tuple[int, str] | None = None
        self.cut_after: int | None = None
        self.models: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._json(200, {"status": "ready", "models": self.server.models, "loading": None})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.tokens.append(self.headers["Authorization"])
        if self.path == "/v1/model":
            self.server.models.append(body["name"])
            self._json(202, {})
            return
        self.server.asked.append(body)
        if self.server.refusal:
            status, code = self.server.refusal
            self._json(status, {"error": {"code": code, "message": f"said {code}"}})
            return
        lines: list[dict[str, Any]] = [{"event": "start", "model": body["model"]}]
        for i in range(body["k"]):
            lines.append({"event": "text", "index": i, "text": "ans"})
            whole = {"text": f"answer {i}", "token_ids": [i, 2], "finished": True}
            lines.append({"event": "answer", "index": i} | whole)
        lines = [*lines, {"event": "end"}][: self.server.cut_after]
        self.send_response(200)
        self.end_headers()
        for line in lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")

    def _json(self, status: int, plain: object) -> None:
        data = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
