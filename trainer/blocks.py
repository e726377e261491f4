"""How the blocks of a backbone are run: from given hidden states, twice, compiled, or in bf16."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from trainer.errors import ConfigError


class Enter(nn.Module):
    """A block that works on the hidden states it was given rather than on those before it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.source: Tensor | None = None

    def forward(self, _hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.block(self.source, *args, **kwargs)


class Exit(nn.Module):
    """A block that keeps what it gave."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.output: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.output = self.block(*args, **kwargs)
        return self.output


class Recomputed(nn.Module):
    """A block of which only the input is kept: the backward pass runs it again.

    ``select`` is called before either run, so that both are with the same adapter. The library's
    own switch does nothing where dropout is off, as it is in all but SFT and pretraining.
    """

    def __init__(self, block: nn.Module, select: Callable[[], None]) -> None:
        super().__init__()
        self.block, self._select = block, select

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._select()
            return self.block(*args, **kwargs)

        return checkpoint(run, *args, use_reentrant=False, **kwargs)


def compiled(blocks: Sequence[nn.Module]) -> list[Any]:
    """The blocks as torch.compile makes them, for any width of batch; weights are shared.

    ConfigError, once, where it cannot make code at all.
    """
    from torch._dynamo import config  # slow to load, and for this only
    from torch.fx.experimental import _config as shapes

    try:
        torch.compile(_probe, dynamic=True)(torch.ones(8))
    except Exception as error:  # what a missing compiler raises has no class of its own
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise ConfigError(
            "compile is true, but torch.compile cannot make code on this machine"
            f" ({type(error).__name__}: {reason.strip()[:200]}). Install a C++ compiler (g++) or"
            " name one in CXX, or set compile to false."
        ) from None
    # One piece of code serves all blocks, but each adapter and each mode has its own variant.
    # Sizes that are equal in the first batch are not taken to be equal in all.
    shapes.use_duck_shape = False
    config.recompile_limit = max(config.recompile_limit, 64)
    return [torch.compile(block, dynamic=True) for block in blocks]


def _probe(x: Tensor) -> Tensor:
    return x.sin() + 1


def compact(module: nn.Module) -> None:
    """Hold the matrices of a module that is not trained in bf16, in place.

    Autocast rounds them the same way before each product, so nothing changes but speed and
    memory. Norms and embeddings stay in fp32, and so does what requires gradients.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | Conv1D):
            for parameter in part.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
