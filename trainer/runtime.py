"""What the loops stand on: schedules, the optimiser, checkpoints, and the count of time and tokens."""

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer import distributed
from trainer.config import TrainConfig
from trainer.errors import DiskFull, IntegrityError, NumericError
from trainer.records import Parent
from trainer.sharding import gathered, like, whole
from trainer.stage_io import Interrupted
from trainer.zero import ZeroShares, zero_wanted

_MACHINE_SETTINGS = {
    "out", "threads", "checkpoint_every", "keep_checkpoints", "vllm_url", "vllm_weights",
    "vllm_timeout", "shard", "zero_stage", "save_value",
}  # fmt: skip


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What makes a result what it is: every setting but folders and this machine's."""
    folders = {"model", "policy", "reward", "value", "demonstrations", "comparisons", "prompts"}
    left_out = _MACHINE_SETTINGS | folders | {"pretrain_text", "text", "valid_text"}

    def kept(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [kept(item) for item in value]
        if isinstance(value, dict):
            return {name: kept(item) for name, item in value.items() if name not in left_out}
        return value

    return kept(dataclasses.asdict(config))  # type: ignore[no-any-return]


# ---- schedules ------------------------------------------------------------------------------


def cosine(step: int, total: int, final: float) -> float:
    """Factor of the learning rate at step 0, 1, ... total - 1: from 1 down to ``final``."""
    if total <= 1:
        return 1.0
    return final + (1 - final) * (1 + math.cos(math.pi * step / (total - 1))) / 2


def warm_up(iteration: int, length: int) -> float:
    """Factor of the learning rate: from a tenth up to 1 over the first ``length`` iterations."""
    return 1.0 if iteration >= length else 0.1 + 0.9 * iteration / length


# ---- the optimiser --------------------------------------------------------------------------


class Optimiser:
    """AdamW over groups of parameters; each group has its own rate and its own clipping."""

    def __init__(
        self, groups: Sequence[tuple[Iterable[nn.Parameter], float]], config: TrainConfig
    ) -> None:
        self._groups = [list(parameters) for parameters, _ in groups]
        self._rates = [rate for _, rate in groups]
        self._limit = config.max_grad_norm
        self.adam = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate}
                for parameters, rate in zip(self._groups, self._rates, strict=True)
            ],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._shares = ZeroShares(self.adam, config) if zero_wanted(config) else None

    def step(self, factor: float) -> list[float]:
        """One update at ``factor`` times the peak rates; returns each group's gradient norm.

        Of several processes each brings the gradients of its rows. Gradients are cleared.
        NumericError, with nothing changed, if one is not finite.
        """
        for group, rate in zip(self.adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        limit = self._limit or math.inf
        if self._shares is not None:
            norms = self._shares.step(limit, fill_gradients(self._parameters))
            check_finite(sum(norms), "gradient")
        else:
            sum_gradients(self._parameters)
            norms = [
                float(whole(nn.utils.clip_grad_norm_(parameters, limit)))
                for parameters in self._groups
            ]
            check_finite(sum(norms), "gradient")
            self.adam.step()
        self.clear()
        return norms

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Inside, gradients add up. Where Interrupted ends that they are forgotten, and the noise
        that was drawn will be drawn again.
        """
        noise = _random_state()
        try:
            yield
        except Interrupted:
            self.clear()
            _set_random_state(noise)
            raise

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._groups for parameter in group]

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, the same for any number of processes."""
        if self._shares is not None:
            return self._shares.state()
        return gathered(self.adam.state_dict())  # type: ignore[no-any-return]

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        if self._shares is not None:
            self._shares.restore(state)
            return
        parameters = self._parameters
        moments = {
            number: {
                name: like(value, parameters[number]) if value.ndim else value
                for name, value in kept.items()
            }
            for number, kept in state["state"].items()
        }
        self.adam.load_state_dict(state | {"state": moments})


_BUCKET = 1 << 25  # numbers that go over the wire at once: 128 MB in fp32


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the processes' gradients, in each of them; where none has one, none is left.

    Those of weights that are shared out are added up already, by the backward pass.
    """
    parameters = [p for p in parameters if not isinstance(p, DTensor)]
    if distributed.size() == 1 or not parameters:
        return
    bucket: list[Tensor] = []
    for parameter, anywhere in zip(parameters, fill_gradients(parameters), strict=True):
        grad = parameter.grad
        if not anywhere or grad is None:
            continue
        like = not bucket or bucket[0].dtype == grad.dtype
        if not like or sum(map(Tensor.numel, bucket)) + parameter.numel() > _BUCKET:
            _sum_flat(bucket)
            bucket = []
        bucket.append(grad)
    _sum_flat(bucket)


def fill_gradients(parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Which parameters have a gradient in any process; where others have one, zeros stand for it."""
    has = distributed.gathered([parameter.grad is not None for parameter in parameters])
    anywhere = [any(each) for each in zip(*has, strict=True)]
    for parameter, elsewhere in zip(parameters, anywhere, strict=True):
        if elsewhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return anywhere


def _sum_flat(bucket: Sequence[Tensor]) -> None:
    if bucket:
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        distributed.add_up(flat)
        for grad, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def check_finite(value: float, what: str) -> None:
    """NumericError if ``value`` is NaN or infinite."""
    if not math.isfinite(value):
        raise NumericError(
            f"The {what} became {value}. Lower the learning rate, or train in fp32; the last"
            " checkpoint is from before."
        )


@contextlib.contextmanager
def memory_apart() -> Iterator[None]:
    """Give what is free back to the system before and after, where the C library keeps it (glibc):
    what is used inside, in pieces of other sizes, does not come on top.
    """
    _give_back()
    yield
    _give_back()


def _give_back() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


# ---- checkpoints ----------------------------------------------------------------------------


class Checkpoints:
    """The states of one run, newest last: checkpoints/NNNNNNNN.pt, each written atomically.

    A state is a dict of tensors, numbers, strings, lists and dicts. It belongs to one set of
    settings and parents; a state of others is refused, never mixed in.
    """

    def __init__(self, out: Path, config: TrainConfig, parents: Sequence[Parent]) -> None:
        self.folder, self.keep = out / "checkpoints", config.keep_checkpoints
        whole = [settings_of(config), [(p.role, p.sha256) for p in parents]]
        self._identity = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after ``step`` optimiser steps; drop the oldest beyond ``keep``."""
        state = state | {"identity": self._identity} | _random_states()
        distributed.by_main(lambda: self._write(step, state))

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".*.part"):
            left_over.unlink()
        needed, free = _size(state), shutil.disk_usage(self.folder).free
        if needed > 0.95 * free:
            raise DiskFull(
                f"A checkpoint needs {needed / 2**20:.0f} MB, but {self.folder} has"
                f" {free / 2**20:.0f} MB left. Free some space and retry."
            )
        path = self.folder / f"{step:08d}.pt"
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as out:
                torch.save(state, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        for old in self._paths()[: -self.keep]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state, its random state put in place; None if there is none.

        Where the random state of this process is not in it, because more processes go on than
        wrote it, or there is none, all but the first begin a noise of their own.
        """
        paths = distributed.from_main(self._paths())
        if not paths:
            _own_noise()
            return None
        try:
            state: dict[str, Any] = torch.load(
                paths[-1], map_location="cpu", weights_only=True, mmap=distributed.size() > 1
            )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise IntegrityError(
                f"The checkpoint {paths[-1]} cannot be read ({error}). Delete it to go on from"
                " the one before, or from the start."
            ) from None
        if state.pop("identity") != self._identity:
            raise IntegrityError(
                f"{self.folder} holds a checkpoint of other settings or parents."
                " Give the run a new folder, or delete the checkpoints to start over."
            )
        noises = [state.pop("random"), *state.pop("random_of_others", ())]
        if distributed.rank() < len(noises):
            _set_random_state(noises[distributed.rank()])
        else:
            _own_noise(int(paths[-1].stem))
        return state

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.pt"))


def _random_states() -> dict[str, Any]:
    """Of this process and, where there are several, of all."""
    first, *others = distributed.gathered(_random_state())
    return {"random": first} | ({"random_of_others": others} if others else {})


def _random_state() -> dict[str, Any]:
    accelerators = []
    if torch.cuda.is_available():
        alone = distributed.size() == 1
        accelerators = torch.cuda.get_rng_state_all() if alone else [torch.cuda.get_rng_state()]
    return {"cpu": torch.get_rng_state(), "cuda": accelerators}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == 1:
        torch.cuda.set_rng_state(state["cuda"][0])
    elif state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _own_noise(step: int = 0) -> None:
    """What draws from the generator, unlike in the first process in each other."""
    if distributed.rank() > 0:
        torch.manual_seed(torch.initial_seed() + (step << 16) + distributed.rank())


def _size(state: Any) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_size, state.values()))
    return sum(map(_size, state)) if isinstance(state, list | tuple) else 0


# ---- time and tokens ------------------------------------------------------------------------


class Meter:
    """Seconds worked and tokens processed, earlier tries of the run included."""

    def __init__(self) -> None:
        self.tokens, self._before, self._since = 0, 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._since

    def state(self) -> dict[str, float]:
        return {"seconds": self.seconds, "tokens": self.tokens}

    def restore(self, state: dict[str, Any]) -> None:
        self.tokens, self._before = int(state["tokens"]), float(state["seconds"])
        self._since = time.monotonic()

    def figures(self) -> dict[str, Any]:
        """``seconds``, ``tokens`` and ``tokens_per_second`` for the manifest."""
        seconds = self.seconds
        return {
            "seconds": round(seconds, 2),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / max(seconds, 1e-9), 1),
        }
