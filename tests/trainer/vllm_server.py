"""A small server that speaks vLLM's protocol and runs a tiny model with transformers.

Sampling is real, one seeded generator a request, and so is loading weights from a folder. It
refuses what vLLM refuses, and fields that vLLM does not know. What may go wrong with a server is
an attribute to set.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

KNOWN = {
    "model", "prompt", "seed", "temperature", "max_tokens", "ignore_eos", "stop_token_ids", "stop",
    "logprobs", "return_token_ids", "top_p", "top_k", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty",
}  # fmt: skip


class Refused(Exception):
    """What becomes an answer with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TinyVLLM:
    """The server, in threads of this process, while the ``with`` block lasts."""

    shift = 0.0  # added to every log-probability it gives
    deaf = False  # says that it loaded new weights, and did not
    hangs = False  # takes requests for completions and never answers
    fails: list[int]  # statuses of the next completions; taken one by one
    development = True  # VLLM_SERVER_DEV_MODE=1
    logprobs_mode = "raw_logprobs"
    max_model_len = 256

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.eos = self.model.config.eos_token_id
        self.fails = []
        self.asked: list[dict[str, Any]] = []  # completions, in the order they came
        self.loaded: list[str] = []  # folders
        self.lock, self.closing = threading.Lock(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.tiny = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "TinyVLLM":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of those of now."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    # ---- endpoints ------------------------------------------------------------------------------

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "tiny", "max_model_len": self.max_model_len}]}

    def info(self) -> dict[str, Any]:
        return {"vllm_config": {"model_config": {"logprobs_mode": self.logprobs_mode}}}

    def collective_rpc(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("method") != "reload_weights":
            raise Refused(500, f"no worker method {body.get('method')!r}")
        path = body["kwargs"]["weights_path"]
        if not (Path(path) / "model.safetensors").is_file():
            raise Refused(500, f"{path} has no weights")
        if not self.deaf:
            fresh: Any = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
            with self.lock:
                self.model.load_state_dict(fresh.state_dict())
        self.loaded.append(path)
        return {"results": [None]}

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        if self.hangs:
            self.closing.wait(60)
            raise Refused(503, "")
        if self.fails:
            raise Refused(self.fails.pop(0), "")
        self._check(body)
        ids, logprobs, reason = self._sample(body)
        choice = {
            "index": 0,
            "text": self.tokenizer.decode(ids, skip_special_tokens=True),
            "token_ids": ids,
            "logprobs": {"token_logprobs": [value + self.shift for value in logprobs]},
            "finish_reason": reason,
        }
        return {"object": "text_completion", "model": "tiny", "choices": [choice]}

    def _check(self, body: dict[str, Any]) -> None:
        unknown = sorted(body.keys() - KNOWN)
        if unknown:
            raise Refused(400, f"unknown fields {unknown}")
        if body["model"] != "tiny":
            raise Refused(404, f"The model {body['model']!r} does not exist.")
        if not body["prompt"] or not all(isinstance(token, int) for token in body["prompt"]):
            raise Refused(400, "prompt must be token ids")
        if len(body["prompt"]) + body["max_tokens"] > self.max_model_len:
            raise Refused(400, f"the maximum context length is {self.max_model_len}")
        for name, neutral in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
            if body[name] != neutral:
                raise Refused(400, f"this server samples from the whole distribution: {name}")

    @torch.inference_mode()
    def _sample(self, body: dict[str, Any]) -> tuple[list[int], list[float], str]:
        """Ids, the end token among them, their log-probabilities, and why they end."""
        noise = torch.Generator().manual_seed(body["seed"])
        prompt = torch.tensor([body["prompt"]])
        ids: list[int] = []
        logprobs: list[float] = []
        ends = set(body["stop_token_ids"]) | (set() if body["ignore_eos"] else {self.eos})
        with self.lock:
            for _ in range(body["max_tokens"]):
                row = torch.cat([prompt, torch.tensor([ids], dtype=torch.long)], dim=1)
                logits = self.model(row).logits[0, -1].float()
                logs = torch.log_softmax(logits / body["temperature"], dim=-1)
                token = int(torch.multinomial(logs.exp(), 1, generator=noise))
                told = (
                    logs if self.logprobs_mode == "processed_logprobs" else logits.log_softmax(-1)
                )
                ids.append(token)
                logprobs.append(float(told[token]))
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                if token in ends or any(stop in text for stop in body["stop"]):
                    return ids, logprobs, "stop"
        return ids, logprobs, "length"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tiny: TinyVLLM

    def handle_error(self, *_: Any) -> None:
        """Of a client that has gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        tiny, path = self.server.tiny, self.path.partition("?")[0]
        if path == "/health":
            self._answer(200, None)
        elif path == "/v1/models":
            self._answer(200, tiny.models())
        elif path == "/server_info" and tiny.development:
            self._answer(200, tiny.info())
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        tiny = self.server.tiny
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(data) if data else {}
        try:
            if self.path == "/v1/completions":
                self._answer(200, tiny.completions(body))
            elif self.path == "/collective_rpc" and tiny.development:
                self._answer(200, tiny.collective_rpc(body))
            elif self.path == "/reset_prefix_cache" and tiny.development:
                self._answer(200, None)
            else:
                self._answer(404, {"detail": "Not Found"})
        except Refused as error:
            self._answer(error.status, {"error": {"message": str(error), "code": error.status}})

    def _answer(self, status: int, plain: Any) -> None:
        data = b"" if plain is None else json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""
