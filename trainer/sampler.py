"""The policy as what draws answers needs it: a model for the generator here, or for a server."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from trainer.adapters import merge
from trainer.config import PPOConfig
from trainer.models import LanguageModel, load_weights, trained
from trainer.sharding import filled
from trainer.stack import autocast


def sampler_of(policy: LanguageModel) -> Any:
    """The policy of now to sample with: a copy with bf16 weights, or the policy itself in fp32.

    What is no weight, the frequencies of positions first of all, keeps its own precision.

    With an adapter it is the policy itself too, so that its backbone is in memory once. Of weights
    that are shared out it is a whole copy as they are now, which all processes must ask for.
    """
    if policy.adapter is not None:
        return _Sampler(policy)
    if policy.hollow is not None:
        return filled(policy.hollow, policy.model, policy.dtype, policy.stack.device)
    if policy.precision == "fp32":
        return policy.model
    weights = policy.model.parameters()
    held = {id(p): nn.Parameter(p.detach().bfloat16(), requires_grad=False) for p in weights}
    return copy.deepcopy(policy.model, held)


class _Sampler(nn.Module):
    """A policy on a backbone that others use too: its adapter is put on before every token."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__()
        self.model, self._policy = policy.model, policy
        self.training = policy.model.training
        self.config, self.device = policy.model.config, policy.stack.device

    def forward(self, **inputs: Any) -> Any:
        self._policy.stack.select()
        with autocast(self.device, self._policy.precision):
            return self.model(**inputs)


def merged(policy: LanguageModel, config: PPOConfig) -> Any:
    """The policy of now in one model without adapters, fp32: what a server can load."""
    model: Any = AutoModelForCausalLM.from_pretrained(config.policy, dtype=torch.float32)
    load_weights(model, merge(model, trained(policy), config))
    return model
