"""Episodes of PPO: prompts answered by the policy, kept as the token ids that were sampled."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from trainer import distributed, losses
from trainer.config import PPOConfig
from trainer.data import ExampleBatch, Prompt, pad, shuffled
from trainer.generate import Generated, generate
from trainer.text import Codec


class Rollout(NamedTuple):
    """B episodes. Tensors made from it align answers at column 0: [B, R], R the longest answer."""

    prompts: list[list[int]]
    answers: list[list[int]]  # ids as sampled, the end token included
    finished: list[bool]  # false where the length limit cut the answer
    logprobs: list[list[float]] | None = None  # the generator's own, where it says them

    @property
    def mask(self) -> Tensor:
        """[B, R] bool, true at answer tokens; made from lengths, never from ids."""
        lengths = torch.tensor([len(answer) for answer in self.answers])
        return torch.arange(int(lengths.max())) < lengths[:, None]

    @property
    def widths(self) -> list[int]:
        """[B] tokens of each episode, prompt and answer."""
        return [len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True)]

    @property
    def drawn(self) -> Tensor | None:
        """[B, R] log-probabilities that the generator says it drew by, 0 at padding."""
        if self.logprobs is None:
            return None
        return align(torch.tensor([one for row in self.logprobs for one in row]), self.mask)

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

    @classmethod
    def of(cls, config: PPOConfig) -> "Sampling":
        return cls(config.temperature, config.max_new_tokens, config.seed, config.generate_batch)


class Generator(Protocol):
    """What draws answers by the policy's weights of now."""

    def ready(self) -> AbstractContextManager[None]:
        """Inside, answers may be drawn. Asked together."""

    def share(self, widths: Sequence[int]) -> list[int]:
        """Places of the prompts that this process draws for; ``widths`` are their tokens."""

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        codec: Codec,
        how: Sampling,
        check: Callable[..., None],
    ) -> list[Generated]:
        """One answer to each prompt, its noise a function of (seed, key) alone.

        ``check`` is called now and then, and may raise to give up.
        """


class BuiltIn:
    """The generator of this process: ``current`` gives a model with the policy's weights of now."""

    def __init__(self, current: Callable[[], Any]) -> None:
        self._current = current
        self._sampler: Any = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        self._sampler = self._current()
        try:
            yield
        finally:
            self._sampler = None

    def share(self, widths: Sequence[int]) -> list[int]:
        return distributed.own(widths)

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        codec: Codec,
        how: Sampling,
        check: Callable[..., None],
    ) -> list[Generated]:
        return generate(
            self._sampler,
            prompts=prompts,
            keys=keys,
            codec_end_ids=codec.end_ids,
            pad_id=codec.pad_id,
            seed=how.seed,
            temperature=how.temperature,
            max_new_tokens=how.max_new_tokens,
            batch=how.batch,
            stopped=codec.stopped if codec.stop is not None else None,
            progress=check,
        )


def answer(
    generator: Generator,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    codec: Codec,
    how: Sampling,
    check: Callable[..., None],
) -> Rollout:
    """One answer to each prompt, as ``Generator.draw`` says, whichever process draws it."""
    mine = generator.share([len(prompt.ids) for prompt in prompts])
    with generator.ready(), distributed.together():
        drawn = (
            generator.draw(
                [prompts[i].ids for i in mine], [keys[i] for i in mine], codec, how, check
            )
            if mine
            else []
        )
    drawn = distributed.whole(drawn, mine)
    said = [completion.logprobs for completion in drawn if completion.logprobs is not None]
    return Rollout(
        [prompt.ids for prompt in prompts],
        [completion.token_ids for completion in drawn],
        [completion.finished for completion in drawn],
        said or None,
    )


# ---- a generator that is not quite the policy ---------------------------------------------------


def importance_weights(config: PPOConfig, rollout: Rollout, logprobs: Tensor) -> Tensor | None:
    """Weights [B, R] of the answer tokens in the policy loss if the generator's log-probabilities
    are far from the policy's ``logprobs`` [B, R], else none.
    """
    drawn = rollout.drawn
    if drawn is None or float(_gap(rollout, drawn, logprobs).mean()) <= config.importance_above:
        return None
    return losses.importance_weights(logprobs, drawn, rollout.mask, config.importance_cap)


def generator_figures(
    rollout: Rollout, logprobs: Tensor, weights: Tensor | None
) -> dict[str, float]:
    """How far the generator was from the policy, in nats per token, and whether ``weights`` make
    up for it; nothing of the built-in one.
    """
    drawn = rollout.drawn
    if drawn is None:
        return {}
    gap = _gap(rollout, drawn, logprobs)
    return {
        "generator_logprob_gap": float(gap.mean()),
        "generator_logprob_gap_max": float(gap.max()),
        "importance_weights": float(weights is not None),
    }


def _gap(rollout: Rollout, drawn: Tensor, logprobs: Tensor) -> Tensor:
    """Absolute differences [N] at the answer tokens."""
    return (logprobs - drawn)[rollout.mask].abs()


def episode_prompts(prompts: Sequence[Prompt], episodes: Sequence[int], seed: int) -> list[Prompt]:
    """The prompt of each episode: shuffled passes over all prompts, keyed by seed and pass."""
    size = len(prompts)
    orders = {number: shuffled(size, seed, number) for number in {e // size for e in episodes}}
    return [prompts[orders[e // size][e % size]] for e in episodes]
