"""Prompts and answers in the tokens that a reward model reads."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer import distributed
from trainer.blocks import compact
from trainer.config import Precision
from trainer.data import Check, own_micro_batches
from trainer.known_rewards import KNOWN_REWARDS
from trainer.models import ScalarModel
from trainer.padded import pad
from trainer.records import Message
from trainer.stack import pick_device
from trainer.text import Codec


class Reader:
    """From the policy's tokens to the reward model's: the same ids, or the text encoded again.

    Either way the end token is there exactly where it was sampled.
    """

    def __init__(self, policy: Codec, reward: Codec, positions: int | None) -> None:
        """``positions`` is how many tokens the reward model reads; the last ones count."""
        self.policy, self.reward = policy, reward
        self.reads_tokens = policy.fingerprint == reward.fingerprint
        self._first = -(positions or 0)

    def ids(
        self,
        conversation: Sequence[Message],
        prompt: Sequence[int],
        answer: Sequence[int],
        *,
        finished: bool,
    ) -> list[int]:
        """The ids to score; ``prompt`` is the conversation in the policy's tokens."""
        if self.reads_tokens:
            return [*prompt, *answer][self._first :]
        text = self.policy.decode(list(answer))
        again = self.reward.encode_completion(text, ended=finished)
        return (self.reward.encode_prompt(conversation) + again)[self._first :]


def load_scorer(folder: str | Path, precision: Precision) -> ScalarModel:
    """A reward model for scoring only: nothing of it is trained."""
    model = ScalarModel.load(folder, 0, precision, pick_device())
    model.model.requires_grad_(False)
    if precision == "bf16":
        compact(model.model.base_model)
    return model


@torch.no_grad()
def score_ids(
    model: ScalarModel,
    ids: Sequence[Sequence[int]],
    pad_id: int,
    micro_tokens: int,
    check: Check,
) -> Tensor:
    """Scores [N] of N sequences; ``check`` is called before each micro-batch, and may raise."""
    scores = torch.zeros(len(ids))
    with distributed.together():
        widths = [len(sequence) for sequence in ids]
        for rows in own_micro_batches(widths, micro_tokens, check=check):
            tokens = pad([ids[i] for i in rows], pad_id, model.stack.device)
            scores[rows] = model.scores(tokens).cpu()
    distributed.add_up(scores)
    return scores


def known_scores(name: str | None, codec: Codec, answers: Sequence[Sequence[int]]) -> Tensor:
    """Scores [N] of N answers, ids of ``codec``, by the known reward of that name."""
    texts = [codec.decode(answer) for answer in answers]
    return torch.tensor(KNOWN_REWARDS[str(name)](texts), dtype=torch.float32)
