"""Log-probabilities of chosen tokens without keeping what they come from."""

from collections.abc import Iterator, Sequence
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
        slopes = _Slopes(ctx.needs_input_grad, hidden, weight, bias)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in row_chunks(len(hidden)):
                low = hidden[rows].to(ctx.dtype)
                logs = log_softmax(low, ctx.matrix, bias, ctx.temperature)
                scale = grads[0][rows, None] / ctx.temperature
                slopes.add(rows, low, ctx.matrix, logs, targets[rows, None], scale)
        return slopes.hidden, slopes.weight, slopes.bias, None, None, None


class TotalLogprob(torch.autograd.Function):
    """The sum of ``TokenLogprobs`` at temperature 1, its logits made only once.

    Its gradient is, but for one factor, known in the forward pass, and made there where it
    ``learns``. The backward pass can be run once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        learns: bool,
    ) -> Tensor:
        found = []
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.detach().to(dtype)
            slopes = _Slopes(ctx.needs_input_grad, hidden, weight, bias) if learns else None
            for rows in row_chunks(len(hidden)):
                low, chosen = hidden[rows].detach().to(dtype), targets[rows, None]
                logs = log_softmax(low, matrix, bias, 1.0)
                found.append(logs.gather(1, chosen))
                if slopes is not None:
                    slopes.add(rows, low, matrix, logs, chosen, logs.new_ones(len(low), 1))
        ctx.slopes = slopes
        return torch.cat(found).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, ctx.slopes = ctx.slopes, None
        made = slopes.hidden, slopes.weight, slopes.bias
        return *(None if each is None else each.mul_(grads[0]) for each in made), None, None, None


class _Slopes:
    """The gradients of what log-probabilities are made from, summed up a few rows at a time."""

    def __init__(
        self, needed: Sequence[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> None:
        self.hidden = torch.empty_like(hidden)
        self.weight = torch.zeros_like(weight) if needed[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(
        self, rows: slice, low: Tensor, matrix: Tensor, logs: Tensor, chosen: Tensor, scale: Tensor
    ) -> None:
        """Those of ``scale`` [n, 1] times the log-probabilities of ``chosen``; ``logs`` is used up."""
        slope = logs.exp_().mul_(-scale)
        slope.scatter_add_(1, chosen, scale)
        if self.bias is not None:
            self.bias += slope.sum(0)
        slope = slope.to(low.dtype)
        self.hidden[rows] = product(slope, matrix.T).to(self.hidden.dtype)
        if self.weight is not None:
            self.weight += slope.T @ low


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


# ---- models whose logits are more than one product ------------------------------------------------


def has_odd_logits(model: Any) -> bool:
    config = model.config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(config, name, None) not in (None, 1, 1.0) for name in names)


def odd_logprobs(model: Any, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Of such a model, [N] at the targets."""
    return odd_logs(model, hidden, temperature).gather(1, targets[:, None])[:, 0]


def odd_logs(model: Any, hidden: Tensor, temperature: float) -> Tensor:
    """Its ``log_softmax`` [N, vocabulary] in fp32."""
    config = model.config.get_text_config()
    logits = model.get_output_embeddings()(hidden.float()).float()
    logits = logits * getattr(config, "logit_scale", 1.0)
    logits = logits / getattr(config, "logits_scaling", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits / temperature, dim=-1)
