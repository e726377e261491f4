"""A server of answers inside the test's process, and who asks it."""

import http.client
import json
import threading
from typing import Any, NamedTuple

from trainer.config import ServeConfig
from trainer.policies import Policies
from trainer.serve import Server

TOKEN = "a token of the tests"


class Answer(NamedTuple):
    status: int
    lines: list[dict[str, Any]]
    retry_after: str | None

    @property
    def error(self) -> str:
        """The code of a refusal, before or inside the stream."""
        last = self.lines[-1]
        return str(last["error"]["code"] if "error" in last else last.get("code", ""))

    @property
    def rows(self) -> dict[int, list[int]]:
        return {e["index"]: e["token_ids"] for e in self.lines if e["event"] == "answer"}


class Client(NamedTuple):
    """Asks a server that runs."""

    port: int
    token: str = TOKEN

    def ask(self, path: str, body: object, *, method: str = "POST") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Authorization": f"Bearer {self.token}"})
        response = connection.getresponse()
        lines = [json.loads(line) for line in response.read().splitlines()]
        connection.close()
        return Answer(response.status, lines, response.getheader("Retry-After"))

    def samples(self, text: str = "the quiet harbour", **fields: object) -> Answer:
        prompt = [{"role": "user", "content": text}]
        given = {"id": "p0", "messages": prompt, "k": 3, "max_new_tokens": 10} | fields
        return self.ask("/v1/samples", {n: v for n, v in given.items() if v is not None})

    def health(self) -> dict[str, Any]:
        return self.ask("/health", b"", method="GET").lines[0]


class Running:
    """A server in this process."""

    def __init__(self, **settings: Any) -> None:
        plain = {"port": 1, "precision": "fp32", "threads": 1} | settings
        config = ServeConfig(**plain | {"port": 0})
        self.policies = Policies(config)
        self.server = Server(config, self.policies, TOKEN)
        self.client = Client(self.server.server_port)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.policies.stop()
        self.server.server_close()
