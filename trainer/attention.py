"""Attention: over tokens that stand without padding, and in bf16 runs on a CPU in fp32.

A batch's real tokens go through a model in one row, so that nothing but attention is spent on
padding: there they are spread over rows again (``spread_of``), which causal attention without a
mask is right for, and gathered afterwards. Of sequences with a part in common each has a row, so
that what attention takes grows with their number and not with its square (``spread_apart``).

Backward, PyTorch's bf16 kernel on a CPU takes two to three times as long as the fp32 one on rows of
up to 256 tokens (docs/performance.md). So under autocast queries, keys and values are brought to
fp32, and what comes out goes back; scores and sums are the more exact for it. Other devices, and
weights that are bf16 themselves, are left alone; but a sampler of such weights keeps its keys and
values in fp32 (``held_in``), as a step's one query a row took twice the time in bf16.
"""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainer.padded import Padded, rounded

_NAME = "sdpa"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' ``sdpa`` function, query [B, heads, T, D] and what comes out [B, T, heads, D].

    With a spread as the mask the real tokens of a batch, [1, heads, N, D].
    """
    if attention_mask is not None and attention_mask.dtype == torch.long:
        numbers, places = attention_mask[0, :2]
        places, often = places.flatten()[: query.shape[2]], attention_mask.shape[1] == 3
        queries = _spread(query, numbers, places)  # only those at ``places`` are asked about
        keys, values = (_spread(each, numbers, places, often) for each in (key, value))
        out, _ = attend(module, queries, keys, values, None, **options)
        return _Gather.apply(out.flatten(0, 1), places)[None], None  # type: ignore[no-untyped-call]
    kind = query.device.type
    casting = torch.is_autocast_enabled(kind)
    if kind != "cpu" or not (casting or query.dtype != key.dtype):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    with torch.autocast(kind, enabled=False):
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.float()
        out, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return out.to(value.dtype if casting else query.dtype), None


def held_in(model: Any) -> torch.dtype | None:
    """The type that a sampler's keys and values are best kept in; None is that of the model.

    fp32 for a bf16 model on a CPU: then ``attend`` need not bring all of them to fp32 each time.
    """
    asked = model.config.get_text_config()._attn_implementation
    ours = asked == _NAME and ALL_ATTENTION_FUNCTIONS[_NAME] is attend
    return torch.float32 if ours and model.device.type == "cpu" else None


def install() -> None:
    """Have every model of this process use ``attend`` where it asks for ``sdpa``."""
    ALL_ATTENTION_FUNCTIONS[_NAME] = attend


# ---- tokens without padding ------------------------------------------------------------------


def spread_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How the N real tokens of a mask [B, T] with padding on the right are spread: as ``attend`` takes
    it, and the place of each among all, [N].

    [1, 2, B, T] long: of each place, the number of a real token (its own; at padding any); then the
    places. A single row has one of padding beside it: what is compiled for any number of rows
    means two.
    """
    if len(mask) == 1:
        mask = torch.cat([mask, torch.zeros_like(mask)])
    flat = mask.flatten()
    real = flat.nonzero()[:, 0]
    numbers, places = (flat.cumsum(0) - 1).clamp(min=0), torch.zeros_like(flat, dtype=torch.long)
    places[: len(real)] = real
    return torch.stack([numbers, places]).view(1, 2, *mask.shape), real


def spread_apart(batch: Padded) -> tuple[torch.Tensor, torch.Tensor] | None:
    """``spread_of`` for rows with segments, where a row for each of the S sequences is less than half
    the work of theirs under a mask; else None.

    [1, 3, S, T] long: a token that several have in common stands in each of their rows, and its own
    place is in the first. The last of the three says only that there may be such.
    """
    sequences = batch.sequences
    width = max(map(len, sequences))
    if 2 * len(sequences) * width**2 >= batch.ids.numel() * batch.ids.shape[1]:
        return None
    kept = rounded(batch.mask).flatten().cpu()
    beside = (kept & ~batch.mask.flatten().cpu()).nonzero()[:, 0]
    sequences += beside.split(width) if len(beside) else ()
    sequences += sequences[:1] * (len(sequences) == 1)
    number_at = kept.cumsum(0) - 1
    numbers = pad_sequence([number_at[each] for each in sequences], batch_first=True).flatten()
    taken = pad_sequence([kept[each] for each in sequences], batch_first=True).flatten()
    standing = taken.nonzero()[:, 0]
    places = torch.zeros_like(numbers)
    places.scatter_reduce_(0, numbers[standing], standing, "amin", include_self=False)
    spread = torch.stack([numbers, places, torch.zeros_like(places)])
    spread, real = spread.view(1, 3, len(sequences), -1), kept.nonzero()[:, 0]
    return spread.to(batch.ids.device), real.to(batch.ids.device)


def _spread(
    x: torch.Tensor, numbers: torch.Tensor, places: torch.Tensor, often: bool = False
) -> torch.Tensor:
    """[B, heads, T, D] of [1, heads, N, D]; ``numbers`` is [B, T]. With ``often`` a token may stand
    in several rows.
    """
    kind = _SpreadOften if often else _Spread
    rows = kind.apply(x[0].transpose(0, 1), numbers.flatten(), places)  # type: ignore[no-untyped-call]
    return rows.view(*numbers.shape, *rows.shape[1:]).transpose(1, 2)  # type: ignore[no-any-return]


class _Spread(torch.autograd.Function):
    """Real tokens [N, ...] at their places [B * T, ...]; no gradient comes from padding, which
    no real token looks at.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, numbers: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, numbers)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _SpreadOften(torch.autograd.Function):
    """The same, but a token's gradient comes from all places where it stands; from padding, which
    is seen from no place that is asked about, comes 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, numbers: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(numbers)
        ctx.count = len(x)
        return x.index_select(0, numbers)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,), (numbers,) = grads, ctx.saved_tensors
        return slope.new_zeros(ctx.count, *slope.shape[1:]).index_add(0, numbers, slope), None, None


class _Gather(torch.autograd.Function):
    """Rows [B * T, ...] to their real tokens [N, ...]."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,), (places,) = grads, ctx.saved_tensors
        return slope.new_zeros(ctx.count, *slope.shape[1:]).index_copy(0, places, slope), None
