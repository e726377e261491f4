"""Dropout on the residual branches of a decoder (InstructGPT appendix C.1: 0.2 in SFT)."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_OF_ATTENTION = {"attn_dropout", "attention_dropout", "attn_drop"}
_PRE_NORM = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


class _Drop:
    """A forward hook: dropout on what a branch adds to the residual stream, in training only."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (self._dropped(output[0]), *output[1:])
        return self._dropped(output)

    def _dropped(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.rate, training=True)


def set_residual_dropout(blocks: Sequence[nn.Module], rate: float) -> tuple[str, ...]:
    """Put dropout at ``rate`` on both residual branches of every block; 0 leaves what is there.

    Blocks that have such dropout (GPT-2, GPT-NeoX, OPT and their kin) get their rate changed;
    those of Llama's build, which have none, get it added behind attention and MLP. Dropout of
    attention weights and of embeddings stays as it is. Returns a note if a block is of neither
    kind, and nothing was changed.
    """
    if rate == 0:
        return ()
    if not all(_has_place(block) for block in blocks):
        name = type(blocks[0]).__name__
        return (
            f"residual_dropout was not applied: where {name} has residual branches is not known.",
        )
    for block in blocks:
        own = _own(block)
        for module in own:
            module.p = rate
        if not own and _is_rate(block):
            block.dropout = rate  # type: ignore[assignment]
        elif not own:
            block.self_attn.register_forward_hook(_Drop(rate))  # type: ignore[union-attr, operator]
            block.mlp.register_forward_hook(_Drop(rate))  # type: ignore[union-attr, operator]
    return ()


def _has_place(block: nn.Module) -> bool:
    names = {name for name, _ in block.named_children()}
    return bool(_own(block)) or _is_rate(block) or names == _PRE_NORM


def _own(block: nn.Module) -> list[nn.Dropout]:
    """Dropout modules of a block's residual branches."""
    return [
        module
        for name, module in block.named_modules()
        if isinstance(module, nn.Dropout)
        and name.rpartition(".")[2] not in _OF_ATTENTION
        and ".lora_dropout." not in name
    ]


def _is_rate(block: nn.Module) -> bool:
    """Whether the block itself holds its rate as a number (OPT, XGLM)."""
    return isinstance(getattr(block, "dropout", None), float | int)
