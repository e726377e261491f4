"""Several processes on one run: each has a part of the rows, and all keep the same weights.

A launcher (``accelerate launch --multi_gpu``, ``torchrun``) starts them and says who is who by RANK
and WORLD_SIZE. Losses are divided by counts over the whole optimiser step, so what the processes
add up is the undivided batch. What is asked *together* must be asked by all, in one order; a
process without rows takes part too. Alone, every function gives back what it was given.

torch is loaded when the processes join, not before. The first process alone writes files.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from trainer.errors import ConfigError, PeerLost, TrainerError

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)  # with a process that is slower; one that died is noticed at once
_LAST_WORDS = timedelta(seconds=10)

_dist: Any = None  # torch.distributed, while this process is one of several
_rank, _size = 0, 1


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_rank() -> int:
    """Which of them this is, also before they have joined; 0 alone."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def size() -> int:
    """Processes that have joined; 1 alone."""
    return _size


def rank() -> int:
    """Which of them this is."""
    return _rank


def is_main() -> bool:
    """Whether this is the process that writes."""
    return _rank == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the launcher's processes know each other; alone nothing happens.

    PeerLost if they do not find each other, and from any question asked together when one ends.
    """
    global _dist, _rank, _size
    if not launched():
        yield
        return
    dist, store = _join()
    _dist, _rank, _size = dist, dist.get_rank(), dist.get_world_size()
    try:
        yield
        gathered(None)  # so that nobody leaves while another still asks
        dist.destroy_process_group()
    except BaseException:
        _end_after_main(store)
        raise
    finally:
        _dist, _rank, _size = None, 0, 1


def _join() -> tuple[Any, Any]:
    import torch
    from torch import distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available():
        place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= count:
            raise ConfigError(f"There are {count} GPUs here: start at most as many processes.")
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, own_rank, count = next(rendezvous("env://"))
        dist.init_process_group(
            backend, store=store, rank=own_rank, world_size=count, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise PeerLost(f"The processes of this run did not find each other: {error}") from None
    return dist, store


def _end_after_main(store: Any) -> None:
    """A launcher ends all when one ended: let the first process write its error before."""
    with contextlib.suppress(RuntimeError):
        if is_main():
            store.set("ended", "1")
        else:
            store.wait(["ended"], _LAST_WORDS)


# ---- which rows ---------------------------------------------------------------------------------


def own(widths: Sequence[int]) -> list[int]:
    """Places of this process's items; ``widths`` says how long each is, for an even deal."""
    return dealt(widths, _size)[_rank]


def dealt(widths: Sequence[int], hands: int) -> list[list[int]]:
    """Items dealt from the widest down, there and back; each hand has its places in order."""
    found: list[list[int]] = [[] for _ in range(hands)]
    order = sorted(range(len(widths)), key=lambda i: (-widths[i], i))
    for place, item in enumerate(order):
        turn, seat = divmod(place, hands)
        found[hands - 1 - seat if turn % 2 else seat].append(item)
    return [sorted(hand) for hand in found]


# ---- what is asked together ---------------------------------------------------------------------


def gathered(value: T) -> list[T]:
    """The value of every process, by rank."""
    if _dist is None:
        return [value]
    found: list[Any] = [None] * _size
    _ask(_dist.all_gather_object, found, value)
    return found


def from_main(value: T) -> T:
    """The first process's value."""
    return gathered(value)[0]


def by_main(work: Callable[[], T]) -> T:
    """What the first process does for all: its result, or what it raised."""
    result: Any = None
    with together():
        if is_main():
            result = work()
    return from_main(result)  # type: ignore[no-any-return]


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    return any(gathered(flag))


def total(value: float) -> float:
    """The sum over processes, the same to the bit in each."""
    return sum(gathered(value))


def summed(figures: dict[str, float]) -> dict[str, float]:
    """The sum of each figure over processes."""
    every = gathered(figures)
    return {name: sum(one[name] for one in every) for name in figures}


def whole(found: Sequence[T], places: Sequence[int]) -> list[T]:
    """All items, in order, from each process's own and their places."""
    if _dist is None:
        return list(found)
    pairs = gathered(list(zip(places, found, strict=True)))
    items = dict(pair for some in pairs for pair in some)
    return [items[place] for place in sorted(items)]


def add_up(tensor: Any) -> None:
    """Put the sum over processes in the place of a tensor."""
    if _dist is not None and tensor.numel():
        _ask(_dist.all_reduce, tensor)


@contextlib.contextmanager
def together(*, in_step: bool = False) -> Iterator[None]:
    """What one process raises inside, all raise at the end. Inside nothing is asked together.

    Processes that are ``in_step``, because their passes wait for each other, can't be told: an error
    in one ends it, and the others miss it. They may ask together inside.
    """
    raised: Exception | None = None
    try:
        yield
    except Exception as error:
        if _dist is None or in_step:
            raise
        raised = error
    if _dist is None:
        return
    first = next((error for error in gathered(_portable(raised)) if error is not None), None)
    if raised is not None:
        raise raised
    if first is not None:
        raise first


def _portable(error: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return TrainerError(f"{type(error).__name__}: {error}")
    return error


def _ask(question: Callable[..., Any], *args: Any) -> None:
    try:
        question(*args)
    except RuntimeError as error:
        raise _peer_lost(error) from None


def _peer_lost(error: RuntimeError) -> PeerLost:
    said = str(error).partition("\n")[0]
    return PeerLost(
        "Another process of this run ended, so this one ends too; its own words say why. The run"
        f" goes on from its last checkpoint when retried. ({said})"
    )


def lost_in_pass(error: BaseException) -> PeerLost | None:
    """What an error in a pass through shared weights is, if it is that of the wire."""
    wires = ("gloo", "nccl", "Connection closed by peer", "Connection reset by peer")
    on_wire = isinstance(error, RuntimeError) and any(
        word.lower() in str(error).lower() for word in wires
    )
    return _peer_lost(error) if _dist is not None and on_wire else None  # type: ignore[arg-type]
