"""Dropout on the residual branches of a decoder (InstructGPT appendix C.1: 0.2 in SFT).

The noise of a model's dropout modules is a function of seed, optimiser step, sequence and place, not of a
generator's state: the same whichever process has the row, however rows are batched, packed or
padded, and when a block is recomputed. Not so where a model drops attention weights, calls torch's
function itself, or uses one module more than once.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.padded import Padded

_OF_ATTENTION = {"attn_dropout", "attention_dropout", "attn_drop"}
_PRE_NORM = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


# ---- noise ----------------------------------------------------------------------------------------


class Noise:
    """What is dropped in the pass that is under way."""

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0
        self.used = False  # whether a module drops by it: else no pass need be followed
        self._keys: Tensor | None = None  # int32, one of each token

    def follow(self, batch: Padded, places: Tensor | None = None) -> None:
        """The next pass is over ``batch``: as it is [B, T], or over some ``places`` of its tokens in
        one row [1, N].
        """
        positions = batch.positions
        tokens = _mixed(batch.ids * _ODD[0] + positions * _ODD[1]) * batch.mask
        number = ((positions == 0) & batch.mask).cumsum(1).sub(1).clamp(min=0)  # of its sequence
        sequences = torch.zeros_like(tokens).scatter_add_(1, number, tokens)
        start = random.Random(f"{self.seed}:{self.step}").getrandbits(62)
        keys = _mixed(sequences.gather(1, number) + positions * _ODD[2] + start)
        keys = (keys >> 32).int()
        self._keys = keys if places is None else keys.flatten()[places][None]

    def dropped(self, x: Tensor, rate: float, place: Tensor) -> Tensor:
        """Dropout of what the tokens have at a ``place`` [B, T, H] or [B x T, H]; of anything else
        plain dropout, whose noise is that of torch's generator.
        """
        keys = self._keys
        if keys is not None and x.dim() == 2 and len(x) == keys.numel():
            keys = keys.flatten()
        if keys is None or x.shape[:-1] != keys.shape:
            return F.dropout(x, rate, training=True)
        columns = torch.arange(x.shape[-1], device=x.device) + place
        bits = keys[..., None] ^ (_mixed(columns) >> 32).int()
        bits ^= bits >> 16 & 0xFFFF
        bits *= _ODD_32[0]
        bits ^= bits >> 13 & 0x7FFFF
        bits *= _ODD_32[1]
        bits ^= bits >> 16 & 0xFFFF
        return x.masked_fill(bits < round(rate * 2**32) - 2**31, 0) / (1 - rate)


# Odd factors: those of splitmix64 and of murmur3's last step, as signed numbers.
_ODD = (-0x61C8864680B583EB, -0x4B47D0C5A1B2E7C5, -0x3D4D51C2D82B14B1)
_MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_ODD_32 = (-0x7A143595, -0x3D4D51CB)


def _mixed(x: Tensor) -> Tensor:
    """A 64-bit hash of each number, splitmix64's; what overflows is left out."""
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1]), (31, 1)):
        x = (x ^ (x >> shift & 2 ** (64 - shift) - 1)) * factor
    return x


class KeyedDropout(nn.Dropout):
    """A dropout with that noise."""

    def __init__(self, rate: float, noise: Noise, place: int) -> None:
        super().__init__(rate)
        self.noise, self.keyed = noise, True
        noise.used |= rate > 0
        self.place = torch.tensor(place << 32)  # a number would have code compiled for each place

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if not self.keyed:
            return super().forward(x)
        return self.noise.dropped(x, self.p, self.place)

    def after(self, module: nn.Module, _args: Any, output: Any) -> Any:
        """A forward hook: dropout on what a branch adds to the residual stream."""
        self.train(module.training)
        if isinstance(output, tuple):
            return (self(output[0]), *output[1:])
        return self(output)


# ---- where it is ----------------------------------------------------------------------------------


def set_dropout(
    model: nn.Module, blocks: Sequence[nn.Module], rate: float, noise: Noise
) -> tuple[str, ...]:
    """Put dropout at ``rate`` on both residual branches of every block, and give all dropout of
    ``model``, in which they are, its ``noise``; with 0 there is what was there.

    Blocks that have such dropout (GPT-2, GPT-NeoX, OPT and their kin) get their rate changed;
    those of Llama's build, which have none, get it added behind attention and MLP. The rate of other
    dropout stays as it is, and the noise of attention weights is that of torch's generator. Returns a
    note if a block is of neither kind, and its rate was not changed.
    """
    notes: tuple[str, ...] = ()
    if rate > 0 and not all(_has_place(block) for block in blocks):
        name = type(blocks[0]).__name__
        notes = (
            f"residual_dropout was not applied: where {name} has residual branches is not known.",
        )
        rate = 0
    for number, block in enumerate(blocks):
        own = _own(block)
        for module in own:
            module.p = rate or module.p
        if not own:
            _put_behind(block, rate, noise, -2 * number)
    _give(model, noise)
    return notes


def _put_behind(block: nn.Module, rate: float, noise: Noise, place: int) -> None:
    """Dropout behind the branches of a block that has no modules for it."""
    branches = ("self_attn", "mlp")
    if _is_rate(block):
        rate, branches = rate or float(block.dropout), ("self_attn", "fc2")  # type: ignore[arg-type]
        block.dropout = 0.0  # type: ignore[assignment]
    if rate > 0:
        for i, name in enumerate(branches):
            drop = KeyedDropout(rate, noise, place - i - 1)
            block.get_submodule(name).register_forward_hook(drop.after)


def _give(model: nn.Module, noise: Noise) -> None:
    """Put dropout with this noise in the place of every module of it."""
    found = [
        (owner, name, child)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.Dropout) and name not in _OF_ATTENTION
    ]
    for place, (owner, name, child) in enumerate(found):
        owner._modules[name] = KeyedDropout(child.p, noise, place).train(child.training)


@torch.no_grad()
def leave_repeated(model: nn.Module, run: Callable[[], Any]) -> None:
    """Leave those modules that a pass uses more than once, as ``run`` shows without dropout, the noise
    of torch's generator: keyed, they would drop the same each time (Phi, ALBERT).
    """
    drops = [one for one in model.modules() if isinstance(one, KeyedDropout) and one.p > 0]
    if not drops:
        return
    uses: Counter[nn.Module] = Counter()

    def note(module: nn.Module, *_: Any) -> None:
        uses[module] += 1

    hooks = [drop.register_forward_hook(note) for drop in drops]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        run()
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    for drop in drops:
        drop.keyed = uses[drop] <= 1


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
    """Whether the block itself holds its rate as a number (OPT, XGLM), before the layer ``fc2``."""
    return isinstance(getattr(block, "dropout", None), float | int) and hasattr(block, "fc2")
