"""What a process without rows does while others work: passes that add nothing.

Weights that are shared out are gathered by all processes together, so each makes the passes of all.
"""

import torch
from torch import Tensor

from trainer.models import LanguageModel, ScalarModel
from trainer.padded import Padded, pad
from trainer.sharding import Idle, add_nothing


def nothing(device: torch.device) -> Padded:
    """The batch of an idle pass: two tokens."""
    return pad([[0, 1]], 0, device)


def run_idly(model: LanguageModel | ScalarModel, batch: Padded, lower: Tensor | None) -> None:
    """Make a pass over ``nothing``, and its backward pass, that add nothing."""
    if isinstance(model, LanguageModel):
        add_nothing(model.logprobs(batch, batch.ids == 1, lower=lower))
    else:
        add_nothing(model.values(batch, lower=lower))


def idle_pass(model: LanguageModel | ScalarModel) -> Idle:
    """What a process without rows does; None where no other waits for it."""

    def idle() -> None:
        batch = nothing(model.stack.device)
        run_idly(model, batch, model.stack.lower(batch))

    return idle if model.stack.in_step else None
