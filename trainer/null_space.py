"""Steps that stored losses do not feel: orthogonal gradient descent (arXiv 1910.07104).

To first order a step u changes a loss whose gradient is g by <g, u>. Here u is what the optimiser
did to the weights, so it loses its part along each stored g after Adam has rescaled it: a gradient
projected before Adam would come out along g again. The gradients are those at the weights where
they were stored; the further the weights have gone, the less they tell.

Memory: ``room`` + 1 copies of the weights in fp32 (one is the weights before the step).
"""

import contextlib
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from trainer.runtime import check_finite, sum_gradients

_DEPENDENT = 1e-5  # of its norm: a gradient with less outside the span of the others adds nothing


class NullSpace:
    """The null space of at most ``room`` gradients of some weights.

    ``basis`` [room, P] holds ``size`` orthonormal rows; P counts the numbers in the weights.
    """

    def __init__(self, weights: Iterable[nn.Parameter], room: int) -> None:
        self._weights = list(weights)
        ends = torch.tensor([0, *(w.numel() for w in self._weights)]).cumsum(0).tolist()
        self._spans = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        self.basis = torch.zeros(room, ends[-1], device=self._weights[0].device)
        self.size = 0
        self.kept = math.nan  # share of the squared length of the last step that was left to it

    @property
    def megabytes(self) -> float:
        """Of the stored gradients."""
        return self.basis.numel() * self.basis.element_size() / 2**20

    @torch.no_grad()
    def remember(self) -> None:
        """Store the gradients that the weights hold, summed over processes, and clear them.

        One that depends on those stored before adds no row. NumericError if it is not finite.
        """
        sum_gradients(self._weights)
        row = self.basis[self.size]
        for weight, span in zip(self._weights, self._spans, strict=True):
            row[span] = 0 if weight.grad is None else weight.grad.reshape(-1)
            weight.grad = None
        length = float(row.norm())
        check_finite(length, "gradient of the pretraining text")
        earlier = self.basis[: self.size]
        for _ in range(2):  # the second time takes off what rounding left the first time
            row -= (earlier @ row) @ earlier
        rest = float(row.norm())
        if rest > _DEPENDENT * length:
            row /= rest
            self.size += 1

    @contextlib.contextmanager
    def projecting(self) -> Iterator[None]:
        """What happens to the weights inside loses its part along the stored gradients."""
        before = [weight.detach().clone() for weight in self._weights]
        yield
        with torch.no_grad():
            self._project(before)

    def _project(self, before: list[Tensor]) -> None:
        basis, parts = self.basis[: self.size], list(zip(self._weights, self._spans, strict=True))
        along = basis.new_zeros(self.size)
        length = 0.0
        for (weight, span), old in zip(parts, before, strict=True):
            step = (weight - old).reshape(-1)
            along += basis[:, span] @ step
            length += float(step.square().sum())
        for weight, span in parts:
            weight.sub_((along @ basis[:, span]).view_as(weight))
        self.kept = 1 - float(along.square().sum()) / length if length else math.nan
