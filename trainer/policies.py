"""Policies in memory that answer one request at a time, token by token.

A request names its model, or gets the current one. A new model is loaded beside those that are
there and then takes their place: what is under way ends on the model it began with. The noise of
an answer is that of stage ``sample``, keyed by (seed, prompt id, index), so both give the same.
"""

import fcntl
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import SampleConfig, ServeConfig
from trainer.errors import ConfigError, DataError, ModelError, TrainerError
from trainer.generate import Generated, generate
from trainer.records import Message
from trainer.sample import Sampler, load_sampler
from trainer.stage_io import set_threads
from trainer.strict import from_plain
from trainer.text import Codec

Event = dict[str, Any]

MAX_ANSWERS, MAX_NEW_TOKENS = 16, 4096
_FLUSH_SECONDS = 0.04
"""At most so often is new text told: a fast model would otherwise send a line for every token."""
_COMPANY = 64  # rows decoded at once, as in stage ``sample``


class Refused(Exception):
    """A request that is not answered: ``code`` for programs, ``status`` as in HTTP."""

    def __init__(self, status: int, code: str, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after = retry_after

    def event(self) -> Event:
        """The same as the last line of a stream that had begun."""
        return {"event": "error", "code": self.code, "message": self.message}


@dataclass(frozen=True)
class Request:
    """One prompt to be answered ``k`` times, as messages or as ids."""

    id: str
    """Of the prompt: with ``seed`` it keys the noise."""
    messages: tuple[Message, ...] | None = None
    ids: tuple[int, ...] | None = None
    model: str | None = None
    k: int = 4
    temperature: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0

    @classmethod
    def parse(cls, plain: Any) -> "Request":
        """DataError says what does not fit."""
        asked = from_plain(cls, plain, where="request", error=DataError)
        if (asked.messages is None) == (asked.ids is None):
            raise DataError("request must have either messages or ids.")
        for name, low, high in (
            ("k", 1, MAX_ANSWERS),
            ("temperature", 0, 100),
            ("max_new_tokens", 1, MAX_NEW_TOKENS),
        ):
            value = getattr(asked, name)
            if not low <= value <= high:
                raise DataError(f"request.{name} is {value}; it must be from {low} to {high}.")
        return asked


@dataclass
class Job:
    """A request on its way: what the generator says of it, and whether anybody still listens."""

    request: Request
    events: "queue.Queue[Event | Refused]" = field(default_factory=queue.Queue)
    left: threading.Event = field(default_factory=threading.Event)


class _Left(Exception):
    """Nobody listens any more."""


class Policies:
    """The models, and the one thread that answers."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.stopping = threading.Event()
        self.failed: str | None = None
        """Why the last model was not taken."""
        self.loading: str | None = None
        self._models: OrderedDict[str, Sampler] = OrderedDict()  # the longest unused first
        self._current: str | None = None
        self._guard = threading.Lock()
        self._load = threading.Lock()
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._places = threading.BoundedSemaphore(config.waiting + 1)
        self._thread = threading.Thread(target=self._answer_all, name="generator", daemon=True)
        self._thread.start()

    # --- models

    def state(self) -> dict[str, Any]:
        """What /health tells."""
        with self._guard:
            names, current = list(self._models), self._current
        return {
            "status": "ready" if current else "loading" if self.loading else "empty",
            "model": current,
            "models": names,
            "loading": self.loading,
            "failed": self.failed,
            "busy": self.device_is_busy(),
        }

    def load(self, name: str, folder: str) -> None:
        """Load a model beside the others and make it the current one; nothing changes if it fails."""
        if not self._load.acquire(blocking=False):
            raise Refused(503, "loading", f"{self.loading} is being loaded.", retry_after=5)
        try:
            self.loading, self.failed = name, None
            self._take(name, folder)
        except TrainerError as error:
            self.failed = f"{name}: {error}"
            raise Refused(422, "bad_model", str(error)) from None
        except Exception as error:  # torch, safetensors and transformers have many
            self.failed = f"{name}: {type(error).__name__}: {error}"
            said = f"{folder} cannot be used: {type(error).__name__}: {error}"
            raise Refused(422, "bad_model", said) from None
        finally:
            self.loading = None
            self._load.release()

    def _take(self, name: str, folder: str) -> None:
        with self._guard:
            there = name in self._models
        if not there:
            path = self._allowed(folder)
            with self._guard:
                while len(self._models) >= self.config.keep:  # room first: never one more than that
                    unused = next(each for each in self._models if each != self._current)
                    del self._models[unused]
            sampler = load_sampler(
                SampleConfig(
                    out="",
                    model=str(path),
                    prompts="",
                    max_new_tokens=1,
                    max_prompt_tokens=self.config.max_prompt_tokens,
                    precision=self.config.precision,
                )
            )
            _try_out(sampler)
        with self._guard:
            if not there:
                self._models[name] = sampler
            self._models.move_to_end(name)
            self._current = name

    def _allowed(self, folder: str) -> Path:
        path = Path(folder).resolve()
        root = Path(self.config.models).resolve() if self.config.models else None
        if root is not None and not path.is_relative_to(root):
            raise ModelError(f"{folder} does not lie under {root}.")
        if not path.is_dir():
            raise ModelError(f"{folder} is not there.")
        return path

    def _model(self, name: str | None) -> tuple[str, Sampler]:
        with self._guard:
            wanted = name or self._current
            if wanted is None:
                raise Refused(503, "no_model", "No model is loaded yet.", retry_after=5)
            if wanted not in self._models:
                said = f"{wanted} is not loaded; {self._current or 'nothing'} is."
                raise Refused(409, "other_model", said)
            self._models.move_to_end(wanted)
            return wanted, self._models[wanted]

    # --- answers

    def device_is_busy(self) -> bool:
        """Whether somebody trains: the busy file is locked."""
        if not self.config.busy_file:
            return False
        try:
            with open(self.config.busy_file, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @contextmanager
    def ask(self, request: Request) -> Iterator[Job]:
        """A job that is waiting to be answered while the block runs; Refused where it can't be."""
        self._ready()
        self._model(request.model)
        if not self._places.acquire(blocking=False):
            raise Refused(503, "full", "Others wait already.", retry_after=5)
        job = Job(request)
        self._jobs.put(job)
        try:
            yield job
        finally:
            job.left.set()

    def stop(self) -> None:
        """Give up what is under way, tell those who wait, and end the thread."""
        self.stopping.set()
        self._jobs.put(None)
        self._thread.join(10)

    def _ready(self) -> None:
        if self.stopping.is_set():
            raise Refused(503, "stopping", "The server is ending.", retry_after=10)
        if self.device_is_busy():
            raise Refused(503, "training", "The device is in use for training.", retry_after=30)

    def _answer_all(self) -> None:
        set_threads(self.config.threads)
        while (job := self._jobs.get()) is not None:
            try:
                self._answer(job)
            except _Left:
                pass
            except Refused as refused:
                job.events.put(refused)
            except TrainerError as error:
                job.events.put(Refused(422, "refused", str(error)))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                job.events.put(Refused(500, "failed", said))
            finally:
                self._places.release()

    def _answer(self, job: Job) -> None:
        if job.left.is_set():
            raise _Left
        self._ready()
        asked, started = job.request, time.monotonic()
        name, sampler = self._model(asked.model)
        prompt = _encoded(asked, sampler, self.config.max_prompt_tokens)
        told = _Telling(job, sampler.codec, asked.k, self.stopping)
        job.events.put({"event": "start", "model": name, "prompt_tokens": len(prompt)})
        generate(
            sampler.model,
            prompts=[prompt],
            keys=[f"{asked.id}/{index}" for index in range(asked.k)],
            codec_end_ids=sampler.codec.end_ids,
            pad_id=sampler.codec.pad_id,
            seed=asked.seed,
            temperature=asked.temperature,
            max_new_tokens=asked.max_new_tokens,
            batch=_COMPANY,
            answers=asked.k,
            stopped=sampler.codec.stopped if sampler.codec.stop is not None else None,
            progress=told.ended,
            each_step=told.step,
            each_token=told.token,
        )
        job.events.put({"event": "end", "seconds": round(time.monotonic() - started, 3)})


def _encoded(asked: Request, sampler: Sampler, limit: int) -> list[int]:
    """The prompt's ids; Refused where they and an answer do not fit the model."""
    if asked.ids is not None:
        ids = list(asked.ids)
        if not ids or not all(0 <= each < sampler.codec.vocab_size for each in ids):
            raise DataError("request.ids must be ids of the model's vocabulary, at least one.")
    else:
        ids = sampler.codec.encode_prompt(asked.messages or ())
    positions = getattr(sampler.model.config.get_text_config(), "max_position_embeddings", None)
    room = limit if positions is None else min(limit, positions - asked.max_new_tokens)
    if len(ids) > room:
        said = f"The prompt has {len(ids)} tokens; at most {max(room, 0)} can be answered."
        raise Refused(422, "too_long", said)
    return ids


def _try_out(sampler: Sampler) -> None:
    """One token from the new model: what is damaged is found before it answers anybody."""
    codec = sampler.codec
    generate(
        sampler.model,
        prompts=[codec.encode_prompt([Message("user", "Hello")])],
        keys=["try/0"],
        codec_end_ids=codec.end_ids,
        pad_id=codec.pad_id,
        seed=0,
        temperature=1.0,
        max_new_tokens=1,
        batch=1,
    )


class _Telling:
    """Turns tokens into lines of new text, answer by answer."""

    def __init__(self, job: Job, codec: Codec, k: int, stopping: threading.Event) -> None:
        self.job, self.codec, self.stopping = job, codec, stopping
        self.ids: list[list[int]] = [[] for _ in range(k)]
        self.sent = [""] * k
        self.open = set(range(k))
        self.last = 0.0

    def step(self) -> None:
        """Before every token: whether to go on, and what to tell."""
        if self.job.left.is_set():
            raise _Left
        if self.stopping.is_set():
            raise Refused(503, "stopping", "The server is ending.", retry_after=10)
        now = time.monotonic()
        if now - self.last >= _FLUSH_SECONDS:
            self.last = now
            for row in sorted(self.open):
                self._tell(row)

    def token(self, row: int, token: int) -> None:
        self.ids[row].append(token)

    def ended(self, row: int, completion: Generated) -> None:
        self.open.discard(row)
        self.job.events.put(
            {
                "event": "answer",
                "index": row,
                "text": self.codec.decode(completion.token_ids),
                "token_ids": completion.token_ids,
                "finished": completion.finished,
            }
        )

    def _tell(self, row: int) -> None:
        text = self._certain(self.codec.decode(self.ids[row]))
        before = self.sent[row]
        if len(text) > len(before) and text.startswith(before):
            self.sent[row] = text
            new = text[len(before) :]
            self.job.events.put({"event": "text", "index": row, "text": new})

    def _certain(self, text: str) -> str:
        """Without what a later token may change: half a character, the beginning of a stop sequence."""
        text = text.rstrip("\ufffd")
        stop = (self.codec.stop or "").strip()
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                return text[:-length].rstrip()
        return text


def request_of(plain: Any) -> Request:
    """A request from parsed JSON; Refused where it is not one."""
    try:
        return Request.parse(plain)
    except (DataError, ConfigError) as error:
        raise Refused(400, "bad_request", str(error)) from None
