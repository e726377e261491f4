"""Weights, gradients and optimiser state shared out over the processes: torch's FSDP2.

Each process holds its rows of every weight, and of what the optimiser keeps of it. A pass gathers
one block at a time and lets it go again; its backward pass adds the gradients up over processes and
leaves each its rows. So all processes must make the same number of passes, in one order: one that
has no rows left makes an *idle* pass, which adds nothing. Weights travel in fp32, as they are held,
and autocast rounds them as it does without sharding: the numbers are the same.

Not shared out, a tensor goes through every function here unchanged.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer import distributed
from trainer.config import TrainConfig

T = TypeVar("T")
P = ParamSpec("P")
S = TypeVar("S")

Pass = Callable[[Callable[[], Any]], Any]
"""Runs what it is given as one pass through a model, and gives back what that gives."""

Idle = Callable[[], None] | None
"""Makes a pass that adds nothing; None where each process makes its own passes only."""


def wanted(config: TrainConfig) -> bool:
    """Whether there are other processes to share the weights with, and they are to be."""
    return config.shard and distributed.size() > 1


def load_device(config: TrainConfig, device: torch.device) -> torch.device:
    """Where a model is loaded to: whole weights that are to be shared out need not fit ``device``."""
    return torch.device("cpu") if wanted(config) else device


# ---- passes ---------------------------------------------------------------------------------------


def plain_pass(work: Callable[[], T]) -> T:
    """A pass through a model that every process holds whole."""
    return work()


def share_out(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> Pass:
    """Leave this process its rows of a model's weights, on ``device``; how passes are to be run.

    Each block is gathered by itself, and all else together. Gradients are summed, not averaged:
    losses are divided by counts over all processes.
    """
    how: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (distributed.size(),)),
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "reshard_after_forward": True,  # also of the root: nothing gathered outlives a change of weights
    }
    for block in blocks:
        fully_shard(block, **how)
    fully_shard(model, **how)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    root: Any = model
    root.one_pass = _pass_apart
    register_fsdp_forward_method(root, "one_pass")
    return root.one_pass  # type: ignore[no-any-return]


def _pass_apart(work: Callable[[], Any]) -> Any:
    """What comes out is no view: the hook that gathers for the backward pass is on it."""
    found = work()
    return found.clone() if isinstance(found, Tensor) and found._is_view() else found


def in_one_pass(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method of a Stack, or of what has one, that is a pass through the model. They do not nest."""

    @wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        stack: Any = getattr(self, "stack", self)
        return stack.one_pass(lambda: method(self, *args, **kwargs))  # type: ignore[no-any-return]

    return run


def add_nothing(output: Tensor) -> None:
    """The backward pass, where there is one, of a pass that only the other processes need."""
    if torch.is_grad_enabled():
        (0 * output.sum()).backward()  # type: ignore[no-untyped-call]


# ---- tensors --------------------------------------------------------------------------------------


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, in every process. Asked together."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of named weights, on the CPU, that later steps do not change. Asked together.

    Of weights that are shared out the first process, which writes, has the whole; the others
    have empty tensors.
    """
    return {name: _for_main(tensor) for name, tensor in weights.items()}


def held(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Such a copy for this run itself: of weights that are shared out this process's rows."""
    return {name: here(tensor).clone() for name, tensor in weights.items()}


def here(tensor: Tensor) -> Tensor:
    """A tensor as ``held`` has it, but no copy if it is there already."""
    return tensor.detach() if isinstance(tensor, DTensor) else tensor.detach().cpu()


def gathered(state: Any) -> Any:
    """A state with whole tensors in place of those that are shared out, as ``copied`` has them."""
    if isinstance(state, DTensor):
        return _for_main(state)
    if isinstance(state, dict):
        return {name: gathered(value) for name, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return state


def _for_main(tensor: Tensor) -> Tensor:
    full = whole(tensor)
    if isinstance(tensor, DTensor):
        return full.cpu() if distributed.is_main() else torch.empty(0)
    return full.cpu().clone()


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's rows of a whole tensor, if ``other`` is shared out; nothing is sent."""
    if not isinstance(other, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


# ---- a whole copy to draw answers with ------------------------------------------------------------


def hollow(model: nn.Module) -> Any:
    """A copy of a model without its weights, made before they are shared out."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.new_empty(0), requires_grad=False) for p in model.parameters()
    }
    return copy.deepcopy(model, memo).eval()


def filled(empty: Any, model: nn.Module, dtype: torch.dtype, device: torch.device) -> Any:
    """A model with the weights of now, whole, in ``dtype``. Asked together.

    Decoding with it takes no other process, so each may draw answers of any length.
    """
    memo: dict[int, Any] = {}
    own = dict(model.named_parameters())
    for name, place in empty.named_parameters():
        memo[id(place)] = nn.Parameter(whole(own[name]).to(dtype), requires_grad=False)
    found = copy.deepcopy(empty, memo)
    return found.to(device=device)
