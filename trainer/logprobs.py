"""Log-probabilities of chosen tokens without keeping what they come from."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.products import product

LOGIT_ROWS = 128  # rows of logits made at once: 128 x 49,152 in fp32 is 25 MB


class TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias) at the targets, a few rows of logits at a time.

    The logits are made again in the backward pass rather than kept: what they would take is
    rows x vocabulary x 4 bytes. Matrix products are in ``dtype``, all else in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            low, matrix = hidden.detach().to(dtype), weight.detach().to(dtype)
            chunks = [
                log_softmax(low[rows], matrix, bias, temperature).gather(1, targets[rows, None])
                for rows in row_chunks(len(low))
            ]
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.matrix, ctx.temperature, ctx.dtype = matrix, temperature, dtype
        return torch.cat(chunks)[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in row_chunks(len(hidden)):
                low = hidden[rows].to(ctx.dtype)
                scale = grads[0][rows, None] / ctx.temperature
                slope = log_softmax(low, ctx.matrix, bias, ctx.temperature).exp_().mul_(-scale)
                slope.scatter_add_(1, targets[rows, None], scale)
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
                slope = slope.to(ctx.dtype)
                grad_hidden[rows] = product(slope, ctx.matrix.T).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += slope.T @ low
        return grad_hidden, grad_weight, grad_bias, None, None, None


def row_chunks(rows: int) -> Iterator[slice]:
    return (slice(i, i + LOGIT_ROWS) for i in range(0, rows, LOGIT_ROWS))


def log_softmax(hidden: Tensor, matrix: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[rows, vocabulary] in fp32."""
    logits = product(hidden, matrix)
    if bias is not None:
        logits = logits.float() + bias.detach().float()
    if temperature != 1:
        logits = logits.float() / temperature
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)
