"""Running text beside PPO: its loss in the mix, and the gradients of it that updates keep away from."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainer import distributed
from trainer.actors import Actors
from trainer.config import PPOConfig
from trainer.data import Check, go_on, own_micro_batches
from trainer.idle import idle_pass
from trainer.models import LanguageModel, trained
from trainer.null_space import NullSpace
from trainer.padded import pad
from trainer.ppo_run import Work
from trainer.pretrain_text import PretrainText
from trainer.stage_io import Run


def pretrain_losses(
    policy: LanguageModel,
    windows: Sequence[list[int]],
    pad_id: int,
    micro_tokens: int,
    check: Check = go_on,
) -> Iterator[Tensor]:
    """Shares, one per micro-batch, of the mean next-token loss over windows of running text;
    ``check`` as in ``own_micro_batches``.
    """
    targets = sum(len(window) - 1 for window in windows)
    widths = [len(window) for window in windows]
    for group in own_micro_batches(widths, micro_tokens, idle=idle_pass(policy), check=check):
        batch = pad([windows[i] for i in group], pad_id, policy.stack.device)
        predicted = batch.mask.clone()
        predicted[:, 0] = False
        yield -policy.total_logprob(batch, predicted, lower=policy.stack.lower(batch)) / targets


def null_space_of(
    config: PPOConfig, run: Run, actors: Actors, text: PretrainText | None
) -> NullSpace | None:
    """Gradients of the pretraining loss at the policy's weights, for steps that avoid them."""
    if config.against_forgetting != "null_space" or text is None:
        return None
    policy, size = actors.policy, config.null_space_sequences
    null_space = NullSpace(trained(policy).values(), config.null_space_gradients)
    for first in range(0, config.null_space_gradients * size, size):
        if run.stopping:
            run.stop()
        windows = text.take(first, size)
        for share in pretrain_losses(policy, windows, actors.codec.pad_id, config.micro_tokens):
            share.backward()  # type: ignore[no-untyped-call]
        null_space.remember()
    return null_space


@torch.no_grad()
def remembered_loss(work: Work) -> dict[str, float]:
    """With a null space, the pretraining loss over the text whose gradients it stores."""
    config, policy = work.config, work.actors.policy
    if work.null_space is None or work.text is None:
        return {}
    windows = work.text.take(0, config.null_space_gradients * config.null_space_sequences)
    shares = pretrain_losses(policy, windows, work.actors.codec.pad_id, config.micro_tokens)
    return {"pretrain_loss": distributed.total(sum(map(float, shares)))}
