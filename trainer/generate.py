"""Batched sampling from a causal language model, built in.

Each prompt is run once, however many answers are drawn from it; rows are sorted by length and
padded on the left, with explicit positions; rows that have ended leave the batch, an eighth of it
at a time, and the last of the others move into their places; logits are computed for the last
position only. There is no top-k or top-p: what is sampled from is the whole distribution, so that
the trainer's log-probabilities are those of the sampler.

The noise of a row is a function of (seed, key) alone: one uniform number per token, turned into
a token by inverting the cumulative distribution. So a row's sample depends neither on the batch
size nor on the order, the company or the process it is drawn in (up to the rounding of the
model's own matrix products).
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from trainer import attention
from trainer.config import Precision
from trainer.errors import ModelError, NumericError
from trainer.products import quicken

attention.install()

_BLOCK = 256  # tokens per block of the two-level cumulative distribution
_WORTH_KEEPING = (
    7 / 8
)  # of the rows: with more that go on, letting the ended go costs more than it saves


class Generated(NamedTuple):
    """One completion: its ids as sampled (the end token included) and whether it ended."""

    token_ids: list[int]
    finished: bool
    logprobs: list[float] | None = None  # nats, of a generator that says by which it drew them


def generate(
    model: Any,
    *,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    codec_end_ids: Collection[int],
    pad_id: int,
    seed: int,
    temperature: float,
    max_new_tokens: int,
    batch: int,
    answers: int = 1,
    stopped: Callable[[Sequence[int]], bool] | None = None,
    progress: Callable[[int, Generated], None] | None = None,
    each_step: Callable[[], None] | None = None,
    each_token: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Draw ``answers`` completions of each prompt; row i continues ``prompts[i // answers]``.

    ``keys`` names the noise of each row (``len(prompts) * answers`` of them); ``temperature`` 0
    takes the likeliest token. ``stopped`` says whether a completion's ids have reached a stop
    sequence; ``progress`` is called with each row's index and completion as it ends;
    ``each_step`` before every token, and may raise to give up; ``each_token`` with each row's
    index and token as it is drawn. ``batch`` is the number of rows decoded at once. ModelError if a prompt and its answer do not fit the
    model's positions; NumericError if the model gives no finite logits.
    """
    if len(keys) != len(prompts) * answers:
        raise ValueError(f"{len(prompts)} prompts x {answers} answers need as many keys.")
    if not all(prompts):
        raise ValueError("A prompt needs at least one token.")
    _check_positions(model, max(map(len, prompts), default=0) + max_new_tokens)
    by_length = sorted(range(len(keys)), key=lambda row: (-len(prompts[row // answers]), row))
    out: dict[int, Generated] = {}

    def ended(row: int, completion: Generated) -> None:
        out[row] = completion
        if progress is not None:
            progress(row, completion)

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(by_length), batch):
                rows = by_length[start : start + batch]
                asked = [list(prompts[row // answers]) for row in rows]
                _decode(
                    _Group(model, asked, pad_id, room=max_new_tokens),
                    rows=rows,
                    noise=np.stack([uniforms(seed, keys[row], max_new_tokens) for row in rows]),
                    end_ids=frozenset(codec_end_ids),
                    temperature=temperature,
                    stopped=stopped,
                    ended=ended,
                    each_step=each_step,
                    each_token=each_token,
                )
    finally:
        model.train(was_training)
    return [out[row] for row in range(len(keys))]


def load_generator(folder: str | Path, precision: Precision) -> Any:
    """A causal language model for sampling only, its weights in ``precision``.

    On the first accelerator where there is one. ModelError if the folder holds no such model.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} holds no causal language model: {error}") from None
    quicken(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval().requires_grad_(False)


def uniforms(seed: int, key: str, count: int) -> np.ndarray:
    """The noise of one row: ``count`` numbers in [0, 1), a function of (seed, key) alone."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    counter_key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=counter_key)).random(count)


def draw(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The token of each row: inverse-CDF sampling over softmax(logits / temperature).

    ``logits`` [rows, vocabulary] in fp32, ``noise`` [rows] in [0, 1) in fp64; returns [rows].
    The cumulative sum has two levels, both in fp64: over the sums of blocks of tokens, then
    inside the one block that is hit.
    """
    top = logits.amax(dim=-1, keepdim=True)
    if not bool(torch.isfinite(top).all()):
        raise NumericError("The model gives no finite logits; its weights are damaged.")
    if temperature == 0:
        return logits.argmax(dim=-1)
    weights = torch.sub(logits, top).div_(temperature).exp_()
    weights = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % _BLOCK))
    blocks = weights.view(weights.shape[0], -1, _BLOCK)
    by_block = blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target = noise.to(by_block).unsqueeze(-1) * by_block[:, -1:]
    block = torch.searchsorted(by_block, target, right=True).clamp_(max=by_block.shape[-1] - 1)
    before = torch.where(block > 0, by_block.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block.unsqueeze(-1).expand(-1, 1, _BLOCK)).squeeze(1)
    reached = inside.to(torch.float64).cumsum(dim=-1)
    # Rounding may leave the target past the block's end: then its last possible token is meant.
    limit = torch.nextafter(reached[:, -1:], torch.zeros_like(reached[:, -1:]))
    place = torch.searchsorted(reached, torch.minimum(target - before, limit), right=True)
    return (block * _BLOCK + place).squeeze(-1)


class _Room(DynamicLayer):
    """A layer's keys and values with room for tokens to come, so that a step copies nothing.

    They are held in ``held_in``, whatever the model's own type.
    """

    keys: Tensor
    values: Tensor
    _keys: Tensor  # with room at the end; ``keys`` is the used part
    _values: Tensor

    def __init__(self, room: int, held_in: torch.dtype | None) -> None:
        super().__init__()
        self.room = room  # columns set aside beside those of the first update
        self.held_in = held_in  # None: as they come

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        used, total = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = self._set_aside(key_states), self._set_aside(value_states)
        self._keys[:, :, used:total] = key_states
        self._values[:, :, used:total] = value_states
        return self._use(total)

    def _set_aside(self, first: Tensor) -> Tensor:
        rows, heads, columns, width = first.shape
        return first.new_empty(rows, heads, columns + self.room, width, dtype=self.held_in)

    def _use(self, total: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._keys[:, :, :total], self._values[:, :, :total]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep (or repeat) these rows, with the room that is left.

        Of rows that close up (``_closed_up``) only those that move are copied.
        """
        used, places = self.get_seq_length(), torch.arange(len(indices), device=indices.device)
        moved = indices != places
        if len(indices) <= len(self._keys) and bool((indices[moved] >= len(indices)).all()):
            for whole in (self._keys, self._values):
                whole[places[moved], :, :used] = whole[indices[moved], :, :used]
            self._keys, self._values = self._keys[: len(indices)], self._values[: len(indices)]
        else:
            keys, values = self.keys.index_select(0, indices), self.values.index_select(0, indices)
            self.room = self._keys.shape[2] - used
            self._keys, self._values = self._set_aside(keys), self._set_aside(values)
            self._keys[:, :, :used], self._values[:, :, :used] = keys, values
        self._use(used)


def _new_cache(model: Any, room: int) -> Cache:
    layers = DynamicCache(config=model.config).layers
    held_in = attention.held_in(model)
    roomy = [_Room(room, held_in) if type(layer) is DynamicLayer else layer for layer in layers]
    return Cache(layers=roomy)


def _closed_up(kept: Sequence[int]) -> list[int]:
    """Rows to keep, in the order in which only the last of them move: into the gaps."""
    stay = [row for row in kept if row < len(kept)]
    move = iter([row for row in kept if row >= len(kept)])
    staying = set(stay)
    return [row if row in staying else next(move) for row in range(len(kept))]


class _Group:
    """Rows decoded together: their cache, positions and padding mask.

    ``logits`` [rows, vocabulary] are the next token's, in fp32. At most ``room`` steps can follow.
    """

    def __init__(self, model: Any, prompts: Sequence[list[int]], pad_id: int, room: int) -> None:
        self.model, self.device = model, model.device
        distinct: dict[tuple[int, ...], int] = {}
        place = [distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts]
        width = max(map(len, distinct))
        padded = [[pad_id] * (width - len(ids)) + list(ids) for ids in distinct]
        lengths = torch.tensor([len(ids) for ids in distinct], device=self.device)
        columns = torch.arange(width, device=self.device)
        mask = (columns >= width - lengths[:, None]).long()
        self.cache = _new_cache(model, room)
        logits = self._forward(
            torch.tensor(padded, device=self.device),
            mask,
            (mask.cumsum(dim=-1) - 1).clamp_(min=0),
        )
        rows = torch.tensor(place, device=self.device)
        self.mask, self.lengths, self.logits = mask[rows], lengths[rows], logits[rows]
        if len(distinct) < len(prompts):
            self.cache.batch_select_indices(rows)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """One forward; returns the last position's logits [rows, vocabulary] in fp32."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            # An index, not the count 1: a slice is not contiguous, and the output layer would
            # then copy its weights once a row.
            logits_to_keep=torch.tensor([-1], device=self.device),
        )
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def step(self, tokens: Tensor) -> None:
        """Append one token to each row and compute the next logits."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.logits = self._forward(tokens[:, None], self.mask, self.lengths[:, None])
        self.lengths = self.lengths + 1

    def keep(self, kept: Sequence[int]) -> None:
        """Let the other rows go."""
        rows = torch.tensor(kept, device=self.device)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]
        self.cache.batch_select_indices(rows)


def _decode(
    group: _Group,
    *,
    rows: Sequence[int],
    noise: np.ndarray,
    end_ids: frozenset[int],
    temperature: float,
    stopped: Callable[[Sequence[int]], bool] | None,
    ended: Callable[[int, Generated], None],
    each_step: Callable[[], None] | None,
    each_token: Callable[[int, int], None] | None,
) -> None:
    """Draw tokens until every row of the group has ended; ``noise`` is [rows, new tokens]."""
    columns = noise.shape[1]
    uniform = torch.from_numpy(noise).to(group.device)
    drawn: list[list[int]] = [[] for _ in rows]
    held, over = list(range(len(rows))), set[int]()  # rows in the group; those of them that ended
    for column in range(columns):
        if each_step is not None:
            each_step()
        tokens = draw(group.logits, uniform[held, column], temperature)
        for row, token in zip(held, tokens.tolist(), strict=True):
            if row in over:
                continue
            ids = drawn[row]
            ids.append(token)
            if each_token is not None:
                each_token(rows[row], token)
            finished = token in end_ids or (stopped is not None and stopped(ids))
            if finished or column == columns - 1:
                over.add(row)
                ended(rows[row], Generated(ids, finished))
        kept = _closed_up([place for place, row in enumerate(held) if row not in over])
        if not kept:
            return
        if len(kept) <= _WORTH_KEEPING * len(held):
            group.keep(kept)
            tokens, held = tokens[kept], [held[place] for place in kept]
        group.step(tokens)


def _check_positions(model: Any, needed: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and needed > limit:
        raise ModelError(
            f"A prompt and its answer need {needed} positions; the model has {limit}."
            " Lower max_prompt_tokens or max_new_tokens."
        )
