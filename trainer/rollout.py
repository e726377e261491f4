"""Episodes of PPO: prompts answered by the policy, kept as the token ids that were sampled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data import ExampleBatch, Prompt, pad, shuffled
from trainer.generate import Generated, generate
from trainer.text import Codec


class Rollout(NamedTuple):
    """B episodes. Tensors made from it align answers at column 0: [B, R], R the longest answer."""

    prompts: list[list[int]]
    answers: list[list[int]]  # ids as sampled, the end token included
    finished: list[bool]  # false where the length limit cut the answer

    @property
    def mask(self) -> Tensor:
        """[B, R] bool, true at answer tokens; made from lengths, never from ids."""
        lengths = torch.tensor([len(answer) for answer in self.answers])
        return torch.arange(int(lengths.max())) < lengths[:, None]

    @property
    def widths(self) -> list[int]:
        """[B] tokens of each episode, prompt and answer."""
        return [len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True)]

    def batch(self, rows: Sequence[int], pad_id: int, device: torch.device) -> ExampleBatch:
        """Some episodes as whole sequences, padded on the right, answers marked."""
        tokens = pad([self.prompts[i] + self.answers[i] for i in rows], pad_id, device)
        starts = torch.tensor([len(self.prompts[i]) for i in rows], device=device)
        columns = torch.arange(tokens.ids.shape[1], device=device)
        return ExampleBatch(tokens, tokens.mask & (columns >= starts[:, None]))


def align(flat: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of answer tokens, row by row, as [B, R]; 0 at padding."""
    return flat.new_zeros(mask.shape).masked_scatter(mask.to(flat.device), flat)


class Sampling(NamedTuple):
    """How answers are drawn."""

    temperature: float
    max_new_tokens: int
    seed: int
    batch: int


def answer(
    sampler: Any,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    codec: Codec,
    how: Sampling,
    progress: Callable[[int, Generated], None] | None = None,
) -> Rollout:
    """One answer to each prompt. The noise of each is a function of (seed, key) alone."""
    drawn = generate(
        sampler,
        prompts=[prompt.ids for prompt in prompts],
        keys=keys,
        codec_end_ids=codec.end_ids,
        pad_id=codec.pad_id,
        seed=how.seed,
        temperature=how.temperature,
        max_new_tokens=how.max_new_tokens,
        batch=how.batch,
        stopped=codec.stopped if codec.stop is not None else None,
        progress=progress,
    )
    return Rollout(
        [prompt.ids for prompt in prompts],
        [completion.token_ids for completion in drawn],
        [completion.finished for completion in drawn],
    )


def episode_prompts(prompts: Sequence[Prompt], episodes: Sequence[int], seed: int) -> list[Prompt]:
    """The prompt of each episode: shuffled passes over all prompts, keyed by seed and pass."""
    size = len(prompts)
    orders = {number: shuffled(size, seed, number) for number in {e // size for e in episodes}}
    return [prompts[orders[e // size][e % size]] for e in episodes]
