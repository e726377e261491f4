"""Answers from a vLLM server: its OpenAI-compatible API, and its call that loads new weights.

It follows vLLM 0.32 (docs.vllm.ai/en/v0.32.0; its development endpoints need the server's
VLLM_SERVER_DEV_MODE=1):

    GET  /health              200 while the engine lives
    GET  /v1/models           name and max_model_len of the model served
    GET  /server_info         (development) logprobs_mode, asked for where the temperature is not 1
    POST /collective_rpc      (development) method reload_weights, weights_path: a folder's weights
    POST /reset_prefix_cache  (development) what was computed with the weights before
    POST /v1/completions      token ids in, token ids and log-probabilities out, one seed each

One request is one episode, because a request has one seed. The noise is the server's own, so its
samples are not those of the built-in generator; they are a function of (seed, key) alone up to the
rounding of its matrix products, which VLLM_BATCH_INVARIANT=1 makes independent of the batch.
"""

import asyncio
import contextlib
import errno
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from trainer import distributed
from trainer.config import PPOConfig
from trainer.errors import DiskFull, ServerError
from trainer.generate import Generated
from trainer.model_folder import save_model_folder
from trainer.rollout import Sampling
from trainer.text import Codec

_LOOK = 0.25  # seconds between two calls of ``check`` while the server works
_INFO = "/server_info?config_format=json"
_DEVELOPMENT = {"/collective_rpc", "/reset_prefix_cache", _INFO}
_BUSY = {429, 502, 503, 504}  # statuses after which it is worth asking again
_NEUTRAL = {
    "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
"""Said in full: what is left out the server takes from the model's generation_config.json."""


class _Away(Exception):
    """The server does not answer, or says that it can't now."""


class _Order(NamedTuple):
    """One episode to be asked for."""

    prompt: list[int]
    seed: int


class VLLM:
    """A generator on a vLLM server, which is given the policy's weights before it draws.

    ``current`` gives the policy of now, a model whose weights are sent.
    ServerError if the server stays away, refuses, or answers what was not asked.
    """

    def __init__(self, config: PPOConfig, current: Callable[[], Any]) -> None:
        self._url, self._timeout = str(config.vllm_url).rstrip("/"), config.vllm_timeout
        self._weights, self._parent = Path(str(config.vllm_weights)).absolute(), config.policy
        self._current = current
        self._model = ""  # its name on the server

    def ready(self) -> AbstractContextManager[None]:
        """Its weights are sent when it draws."""
        return contextlib.nullcontext()

    def share(self, widths: Sequence[int]) -> list[int]:
        """All of them in the first of several processes: the server is one."""
        return list(range(len(widths))) if distributed.is_main() else []

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        codec: Codec,
        how: Sampling,
        check: Callable[..., None],
    ) -> list[Generated]:
        """As ``trainer.rollout.Generator`` says.

        A server that went away and came back may have weights of its own: it is given the
        policy's again before it is asked for the answers that are missing.
        """
        folder = self._write()
        orders = [
            _Order(list(p), noise_seed(how.seed, k)) for p, k in zip(prompts, keys, strict=True)
        ]
        found: dict[int, Generated] = {}
        heard, count, wait = time.monotonic(), 0, 0.5
        while True:
            try:
                _watched(self._ask(folder, orders, found, codec, how), check)
                break
            except _Away as error:
                if len(found) > count:
                    heard, count, wait = time.monotonic(), len(found), 0.5
                if time.monotonic() - heard >= self._timeout:
                    raise ServerError(
                        f"The vLLM server at {self._url} has been away for"
                        f" {self._timeout:g} seconds ({error}). Start it and retry: the run goes on"
                        " from its last checkpoint. Without a server, set generator to built-in."
                    ) from None
                _watched(asyncio.sleep(wait), check)
                wait = min(2 * wait, 10.0)
        self._drop_all_but(folder)
        return [found[row] for row in range(len(orders))]

    async def _ask(
        self,
        folder: Path,
        orders: Sequence[_Order],
        found: dict[int, Generated],
        codec: Codec,
        how: Sampling,
    ) -> None:
        """Load the weights, then ask for what is not ``found`` yet, ``how.batch`` at once."""
        key = os.environ.get("VLLM_API_KEY")
        async with httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._timeout, connect=min(10.0, self._timeout)),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # no proxy between trainer and server
        ) as client:
            longest = max(len(order.prompt) for order in orders) + how.max_new_tokens
            await self._prepare(client, folder, longest, how.temperature)
            room = asyncio.Semaphore(how.batch)

            async def one(row: int) -> None:
                async with room:
                    body = self._body(orders[row], codec, how)
                    reply = await self._call(client, "POST", "/v1/completions", body)
                    found[row] = self._read(reply, codec, how)

            missing = [row for row in range(len(orders)) if row not in found]
            tasks = [asyncio.ensure_future(one(row)) for row in missing]
            try:
                await asyncio.gather(*tasks)
            finally:  # the others end before their connections are closed
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(
        self, client: httpx.AsyncClient, folder: Path, longest: int, temperature: float
    ) -> None:
        """See that the server lives and fits, and give it the weights in ``folder``."""
        await self._call(client, "GET", "/health")
        models = await self._call(client, "GET", "/v1/models")
        self._model = self._field(models, "/v1/models", "data", 0, "id")
        room = models["data"][0].get("max_model_len")
        if room is not None and room < longest:
            raise ServerError(
                f"The vLLM server at {self._url} has room for {room} tokens; a prompt and its"
                f" answer may need {longest}. Start it with --max-model-len {longest}, or lower"
                " max_prompt_tokens or max_new_tokens."
            )
        if temperature != 1:
            await self._check_logprobs(client)
        load = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        await self._call(client, "POST", "/collective_rpc", load)
        await self._call(client, "POST", "/reset_prefix_cache")

    async def _check_logprobs(self, client: httpx.AsyncClient) -> None:
        """Its log-probabilities must be those it draws by, the temperature in them."""
        info = await self._call(client, "GET", _INFO)
        where = ("vllm_config", "model_config", "logprobs_mode")
        mode = self._field(info, "/server_info", *where)
        if mode != "processed_logprobs":
            raise ServerError(
                f"The vLLM server at {self._url} gives {mode}, from before the temperature, which"
                " here is not 1. Start it with --logprobs-mode processed_logprobs."
            )

    async def _call(
        self, client: httpx.AsyncClient, method: str, path: str, body: Any = None
    ) -> Any:
        """The JSON of an answer, none where it has no content; _Away or ServerError if not 200."""
        try:
            reply = await client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise _Away(f"{type(error).__name__} at {path}: {error}".rstrip(": ")) from None
        said = " ".join(reply.text.split())[:300]
        if reply.status_code in _BUSY:
            raise _Away(f"{path} answers {reply.status_code}: {said}".rstrip(": "))
        if reply.status_code == 404 and path in _DEVELOPMENT:
            raise ServerError(
                f"The server at {self._url} has no {path}, which is a development endpoint of"
                " vLLM. Start it with VLLM_SERVER_DEV_MODE=1 in its environment."
            )
        if reply.status_code != 200:
            raise ServerError(
                f"The vLLM server at {self._url} refuses {path} ({reply.status_code}): {said}"
            )
        try:
            return reply.json() if reply.content else None
        except ValueError:
            raise ServerError(
                f"{self._url}{path} is no JSON: {said}. Is it a vLLM server?"
            ) from None

    def _field(self, plain: Any, path: str, *where: str | int) -> Any:
        """What stands deep inside an answer; ServerError if it does not."""
        try:
            for key in where:
                plain = plain[key]
        except (KeyError, IndexError, TypeError):
            raise ServerError(
                f"{self._url}{path} does not say {where[-1]}. Is it a vLLM server?"
            ) from None
        return plain

    def _body(self, order: _Order, codec: Codec, how: Sampling) -> dict[str, Any]:
        """The request for one answer from the whole distribution; our end tokens alone end it."""
        return {
            "model": self._model,
            "prompt": order.prompt,
            "seed": order.seed,
            "temperature": how.temperature,
            "max_tokens": how.max_new_tokens,
            "ignore_eos": True,
            "stop_token_ids": sorted(codec.end_ids),
            "stop": [] if codec.stop is None else [codec.stop],
            "logprobs": 1,
            "return_token_ids": True,
            **_NEUTRAL,
        }

    def _read(self, reply: Any, codec: Codec, how: Sampling) -> Generated:
        """An answer up to where the built-in generator would have ended it."""
        try:
            choice = reply["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            whole = all(isinstance(token, int) for token in ids)
            whole = whole and all(math.isfinite(value) for value in logprobs)
        except (KeyError, IndexError, TypeError):
            whole = False
        if not whole or not 0 < len(ids) == len(logprobs):
            raise ServerError(
                f"The vLLM server at {self._url} gave no token ids with as many log-probabilities."
                " vLLM does from version 0.10.2 on (return_token_ids); use that or a newer one."
            )
        for place, token in enumerate(ids, start=1):
            if token in codec.end_ids or codec.stopped(ids[:place]):
                return Generated(ids[:place], True, logprobs[:place])
        ended = choice.get("finish_reason") == "stop"
        if not ended and len(ids) != how.max_new_tokens:
            raise ServerError(
                f"The vLLM server at {self._url} ended an answer after {len(ids)} of"
                f" {how.max_new_tokens} tokens ({choice.get('finish_reason')}): is its"
                " --max-model-len too low, or does somebody else pause it?"
            )
        return Generated(ids, ended, logprobs)

    # ---- the folder of weights ------------------------------------------------------------------

    def _write(self) -> Path:
        """The policy's weights in a folder of a name that was not there: a server may hold on to
        what it read under an old one.
        """
        numbers = [int(path.name.rpartition("-")[2]) for path in self._folders()]
        folder = self._weights / f"policy-{max(numbers, default=-1) + 1:08d}"
        try:
            save_model_folder(self._current(), self._parent, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"The disk of vllm_weights, {self._weights}, is full.") from None
            raise ServerError(
                f"vllm_weights, {self._weights}, cannot be written: {error.strerror}."
            ) from None
        return folder

    def _drop_all_but(self, folder: Path) -> None:
        """Let the older ones go: the server has read the newest."""
        for old in self._folders():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return list(self._weights.glob("policy-[0-9]*"))


def noise_seed(seed: int, key: str) -> int:
    """The seed of one request, from 0 to 2^63 - 1: a function of (seed, key) alone."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _watched(work: Coroutine[Any, Any, None], check: Callable[..., None]) -> None:
    """Run ``work`` to its end while ``check`` is called; what either raises gives it up at once."""

    async def both() -> None:
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=_LOOK))[0]:
                check()
            await task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    with ThreadPoolExecutor(
        max_workers=1
    ) as apart:  # whoever calls may have a loop: a notebook has
        apart.submit(asyncio.run, both()).result()
