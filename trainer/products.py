"""Matrix products in fp32 on a CPU with AVX-512: by oneDNN, which is faster there than the library
that PyTorch asks.

On AMD cores it takes a tenth less on 1,344 rows and a quarter less on 64, of which a vocabulary's
logits take a third less; without AVX-512 it takes a tenth to a third more, so there PyTorch is left
alone (docs/performance.md). It is the same product, in another order of sums. Other types and devices, autocast, and a few rows, which oneDNN takes longer for, are left alone, and
so is what torch.compile makes: around an operator that it does not know it keeps more in memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
FEW = 16  # rows; below, starting oneDNN costs more than the product


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` of two matrices; no gradient goes through it."""
    if _suits(x, weight, len(x)):
        return _by_onednn(x, weight, None)
    return x @ weight.T


class Linear(nn.Linear):
    """``nn.Linear`` by such products."""

    def forward(self, x: Tensor) -> Tensor:
        if _suits(x, self.weight, x.numel() // self.in_features):
            return _Affine.apply(x, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
        return F.linear(x, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Have the linear layers of a model use such products; its weights stay where they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


class _Affine(torch.autograd.Function):
    """``F.linear``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (x, weight) = grads, ctx.saved_tensors
        rows = slope.reshape(-1, slope.shape[-1])
        wanted = ctx.needs_input_grad
        return (
            _by_onednn(slope, weight.T, None) if wanted[0] else None,
            rows.T @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


def _suits(x: Tensor, weight: Tensor, rows: int) -> bool:
    return (
        WIDE
        and not torch.compiler.is_compiling()  # before the rest: compiled code asks nothing else
        and rows >= FEW
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
