"""The four models of PPO with LoRA: one backbone in memory, switched between adapters.

The policy is the SFT model with an adapter, its reference the same with adapters off. A reward
model that was trained with LoRA on the same SFT model is an adapter and a head, and the value
model starts as a copy of both. Any other reward model is a backbone of its own; where it reads the
policy's tokens from left to right, the value model is an adapter on it.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.adapters import (
    ADAPTER,
    Saved,
    add_adapter,
    is_adapter,
    lighten,
    lora_config,
    read_adapter,
    switch,
    targets,
)
from trainer.config import PPOConfig
from trainer.errors import ModelError
from trainer.models import LanguageModel, ScalarModel, equip, reward_bias
from trainer.records import MANIFEST, read_manifest
from trainer.stack import Stack
from trainer.stage_io import parent_of

POLICY, REWARD, VALUE = "policy", "reward", "value"
LOADED_WHOLE = (
    "The reward model was loaded whole, a second model in memory: it has no LoRA adapter of the"
    " same SFT model."
)


class Cast(NamedTuple):
    """The four models."""

    policy: LanguageModel
    reference: LanguageModel
    value: ScalarModel
    reward: ScalarModel | None  # none where a known reward scores
    shares: bool  # whether one pass through the frozen part serves policy and value model


class Headed(nn.Module):
    """A backbone that others use too under a scalar head of its own."""

    def __init__(self, backbone: Any, head: nn.Linear) -> None:
        super().__init__()
        self.base_model, self.score = backbone, head
        self.config = backbone.config


def policy_and_reference(
    config: PPOConfig, device: torch.device
) -> tuple[LanguageModel, LanguageModel]:
    """The SFT model with a new adapter, and the same with adapters off."""
    policy = LanguageModel.load(config.policy, config.freeze_layers, config.precision, device)
    equip(policy, config, POLICY)
    reference = copy.copy(policy)
    reference.adapter, reference.stack = None, _beside(policy.stack, None)
    return policy, reference


def reward_adapter(config: PPOConfig) -> Path | None:
    """The folder of the reward model's adapter, if it was trained on this very policy."""
    if not config.reward:
        return None
    run = Path(config.reward).parent
    if not is_adapter(run / ADAPTER) or not (run / MANIFEST).is_file():
        return None
    base = parent_of("policy", config.policy).sha256
    parents = read_manifest(run).parents
    known = any(p.role == "policy" and p.sha256 == base for p in parents)
    return run / ADAPTER if known else None


def with_reward_adapter(
    config: PPOConfig, policy: LanguageModel, reference: LanguageModel, folder: Path
) -> Cast:
    """All four on one backbone."""
    saved = read_adapter(folder, policy.model.base_model_prefix)
    if saved.head is None:
        raise ModelError(f"{folder} is no reward model's adapter: it holds no head.")
    stack, layers = policy.stack, list(saved.factors)
    head = _linear(saved.head, reward_bias(config.reward), policy.stack.device)
    for name in (REWARD, VALUE):
        add_adapter(stack, name, saved.lora, layers, config.seed)
        saved.put(stack.backbone, name)
    reward = _headed(stack, config, REWARD, head, learns=False)
    value = _headed(stack, config, VALUE, copy.deepcopy(head), learns=True)
    lighten(stack)
    return Cast(policy, reference, value, reward, not _adapts_below(stack, saved))


def with_whole_reward(
    config: PPOConfig, policy: LanguageModel, reference: LanguageModel, whole: ScalarModel
) -> Cast:
    """A second backbone: the reward model with adapters off, the value model with one."""
    shares = policy.stack.equals_below(whole.stack)
    if shares:
        whole.stack.share_below(policy.stack)
    whole.model.requires_grad_(False)
    stack, head = whole.stack, whole.head
    _add_value(stack, config)
    reward = _headed(stack, config, None, head, learns=False)
    value = _headed(stack, config, VALUE, copy.deepcopy(head), learns=True)
    return Cast(policy, reference, value, reward, shares)


def with_foreign_reward(
    config: PPOConfig,
    policy: LanguageModel,
    reference: LanguageModel,
    whole: ScalarModel | None,
    head: nn.Linear,
) -> Cast:
    """A reward model that no value model can start from, or none: that one is on the policy's
    backbone.
    """
    _add_value(policy.stack, config)
    value = _headed(policy.stack, config, VALUE, head, learns=True)
    reward = whole.frozen_copy() if whole is not None else None
    if reward is not None:
        reward.stack.equip(config)
    return Cast(policy, reference, value, reward, shares=True)


def _add_value(stack: Stack, config: PPOConfig) -> None:
    layers = targets(stack, config.lora_targets)
    add_adapter(stack, VALUE, lora_config(stack, layers, config), layers, config.seed)
    lighten(stack)


def _beside(stack: Stack, name: str | None) -> Stack:
    return stack.beside(partial(switch, stack.backbone, name))


def _headed(
    stack: Stack, config: PPOConfig, name: str | None, head: nn.Linear, *, learns: bool
) -> ScalarModel:
    """A scalar model on a backbone with one of its adapters, or with none."""
    model = Headed(stack.backbone, head.requires_grad_(learns)).eval()
    for key, parameter in stack.backbone.named_parameters():
        if not learns and f".{name}." in key and ".lora_" in key:
            parameter.requires_grad_(False)
    scalar = ScalarModel(model, config.freeze_layers, config.precision, _beside(stack, name))
    scalar.adapter = name
    scalar.stack.equip(config)
    return scalar


def _linear(weight: Tensor, bias: float, device: torch.device) -> nn.Linear:
    head = nn.Linear(weight.shape[1], 1)
    head.weight.data, head.bias.data = weight.float(), torch.full((1,), bias)
    return head.to(device)


def _adapts_below(stack: Stack, saved: Saved) -> bool:
    """Whether an adapter reaches into the frozen part, so that it has hidden states of its own."""
    below = {id(module) for part in stack.shared_modules() for module in part.modules()}
    return any(id(stack.backbone.get_submodule(layer)) in below for layer in saved.factors)
