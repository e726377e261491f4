"""Attention on a CPU in bf16 runs: in fp32, which is faster there than PyTorch's bf16 kernel.

Backward, that kernel takes two to three times as long as the fp32 one on rows of up to 256 tokens
(docs/performance.md). So under autocast queries, keys and values are brought to fp32, and what
comes out goes back; scores and sums are the more exact for it. Other devices, and weights that
are bf16 themselves, are left alone; but a sampler of such weights keeps its keys and values in
fp32 (``held_in``), as a step's one query a row took twice the time in bf16.
"""

from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "sdpa"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' ``sdpa`` function, query [B, heads, T, D] and what comes out [B, T, heads, D]."""
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
