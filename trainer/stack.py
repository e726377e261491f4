"""Any decoder or encoder in Hugging Face format, cut in two, over batches masked by length.

Sequences are padded: ids [B, T] and a boolean mask [B, T], real tokens in one run, padding on
the right or on the left. Position ids follow the mask and go into every forward pass (rotary
models forgive their absence, absolute ones do not). A backbone is cut in two at ``frozen``
blocks: the lower part, its embeddings included, is not trained and holds no gradient, so one pass
through it can serve every model that shares it.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer import attention
from trainer.blocks import Enter, Exit, Recomputed, compact, compiled
from trainer.config import Precision, TrainConfig
from trainer.dropout import Noise, leave_repeated, set_dropout
from trainer.errors import ModelError
from trainer.padded import Padded, pad, pad_segments, rounded
from trainer.sharding import Pass, in_one_pass, plain_pass, share_out

attention.install()


def pick_device() -> torch.device:
    """The first accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


BF16 = {"fp32": False, "bf16": True}  # no "auto": what runs has been settled


def autocast(device: torch.device, precision: Precision) -> Any:
    """bf16 compute over fp32 master weights, or plain fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=BF16[precision])


def has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are faster than in fp32: a processor without instructions
    for them takes several times as long.
    """
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


LITTLE = 0.05
"""The share of padding from which on it is worth while to leave it out."""
TRIED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What an architecture that cannot do a thing may raise."""


# ---- a backbone in two parts ----------------------------------------------------------------


def _blocks_of(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and the list's name."""
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    raise ModelError(f"{type(model).__name__} has no list of {count} blocks to freeze or share.")


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, the lowest first; ModelError if it has no list of them."""
    owner, name = _blocks_of(model)
    return list(getattr(owner, name))


class Stack:
    """A backbone whose lowest ``frozen`` blocks, and what comes before them, are not trained.

    ``lower`` runs that part without gradient; ``hidden`` runs the rest from there. Four things
    are tried once, on construction: ``splits`` says whether the architecture can be cut so (else
    ``lower`` gives None and ``hidden`` runs all of it), ``segments`` whether a row may hold several
    sequences, ``bidirectional`` whether a token sees those after it, ``unpads`` whether a batch's
    real tokens can be run in one row without padding, as they then are. ``positions`` is how many
    an encoder's table of positions holds; none if it has no such table.
    """

    def __init__(
        self,
        backbone: Any,
        frozen: int,
        precision: Precision,
        *,
        like: tuple[bool, bool, bool, bool] | None = None,
    ) -> None:
        self.backbone, self.precision = backbone, precision
        owner, self._name = _blocks_of(backbone)
        blocks: nn.ModuleList = getattr(owner, self._name)
        if frozen >= len(blocks):
            raise ModelError(
                f"freeze_layers is {frozen}, but the model has {len(blocks)} blocks:"
                " at least one must be left to train."
            )
        self.frozen, self._owner = frozen, owner
        self._before = [m for n, m in _children_before(backbone, blocks)] if frozen else []
        self._blocks = list(blocks)
        for module in (*self._before, *self._blocks[:frozen]):
            module.requires_grad_(False)
        self.select: Callable[[], None] = _nothing  # called before every run: adapters on or off
        self._recomputes, self._compiled = False, list[nn.Module]()
        self.noise: Noise | None = None  # of dropout, where there may be some
        self.one_pass: Pass = plain_pass  # weights that are shared out are gathered for it
        self._first_position, self.positions = _position_table(backbone)
        self.splits, self.segments, self.bidirectional, self.unpads = like or (False,) * 4
        self._window = _window(backbone)
        if like is None:
            self.splits = bool(frozen) and owner is backbone and self._plainly(self._try_parts)
            self.segments = self._window == math.inf and self._plainly(self._try_segments)
            self.bidirectional = not self.segments and self._plainly(self._try_ahead)
            self.unpads = not self.bidirectional and self._plainly(self._try_unpadded)
        if precision == "bf16":
            for block in self._blocks[:frozen]:
                compact(block)

    def equip(self, config: TrainConfig) -> None:
        """From now on run the blocks as the settings say: recomputed, compiled; ConfigError if
        there is nothing to compile with.
        """
        self._recomputes = config.gradient_checkpointing
        self._compiled = compiled(self._blocks) if config.compile else []

    def set_dropout(self, rate: float, seed: int) -> tuple[str, ...]:
        """Dropout at ``rate`` on the branches of the blocks, as ``dropout.set_dropout`` says; notes."""
        noise = Noise(seed)
        notes = set_dropout(self.backbone, self._blocks, rate, noise)
        self.noise = noise if noise.used else None
        if self.frozen:  # modules before the blocks may be others now
            blocks = getattr(self._owner, self._name)
            self._before = [m for _, m in _children_before(self.backbone, blocks)]
        batch = pad([[0, 1]], 0, self.device)
        leave_repeated(
            self.backbone, lambda: self.one_pass(lambda: self._run(self.backbone, batch))
        )
        return notes

    def share_out(self, model: nn.Module, device: torch.device) -> None:
        """From now on hold this process's share of ``model``, which is around this backbone."""
        self.one_pass = share_out(model, self._blocks, device)

    @property
    def in_step(self) -> bool:
        """Whether all processes must make the same number of passes."""
        return self.one_pass is not plain_pass

    def beside(self, select: Callable[[], None]) -> "Stack":
        """The same backbone, with ``select`` called before it is run."""
        twin = copy.copy(self)
        twin.select = select
        return twin

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device  # type: ignore[no-any-return]

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks, the lowest first."""
        return list(self._blocks)

    def train(self, mode: bool, step: int = 0) -> None:
        """Dropout on, with the noise of an optimiser step, or off; always off in the frozen part."""
        self.backbone.train(mode)
        if self.noise is not None:
            self.noise.step = step
        for module in (*self._before, *self._blocks[: self.frozen]):
            module.eval()

    def lower(self, batch: Padded) -> Tensor | None:
        """Hidden states [B, T, H] above the frozen blocks, or None if there is no such part."""
        return self._lower(batch) if self.splits else None

    @in_one_pass
    def _lower(self, batch: Padded) -> Tensor:
        part = self._part(0, self.frozen)
        blocks = getattr(part, self._name)
        blocks[-1] = last = Exit(blocks[-1])
        with torch.no_grad():
            return self._run(part, batch, last=last)

    def hidden(self, batch: Padded, lower: Tensor | None = None) -> Tensor:
        """Final hidden states [B, T, H]; ``lower`` saves the way through the frozen blocks."""
        if lower is None:
            with self._equipped():
                return self._run(self.backbone, batch)
        part = self._part(self.frozen, len(self._blocks))
        blocks = getattr(part, self._name)
        blocks[0] = first = Enter(blocks[0])
        first.source = lower
        return self._run(part, batch, first)

    def _part(self, start: int, stop: int) -> Any:
        """The backbone with some of its blocks only; modules and weights are shared."""
        part = copy.copy(self.backbone)
        part._modules = dict(self.backbone._modules)
        part._modules[self._name] = nn.ModuleList(self._as_run()[start:stop])
        part.config = config = copy.copy(self.backbone.config)
        config.num_hidden_layers = stop - start
        kinds = getattr(config, "layer_types", None)
        if kinds is not None:
            config.layer_types = kinds[start:stop]
        return part

    def _as_run(self) -> list[nn.Module]:
        """All blocks, wrapped as they are to be run."""
        blocks = list(self._compiled or self._blocks)
        if self._recomputes and torch.is_grad_enabled():
            above = [Recomputed(block, self.select) for block in blocks[self.frozen :]]
            blocks[self.frozen :] = above
        return blocks

    @contextlib.contextmanager
    def _equipped(self) -> Iterator[None]:
        """Inside, the backbone has its blocks as they are to be run."""
        if not (self._recomputes or self._compiled):
            yield
            return
        modules, own = self._owner._modules, self._owner._modules[self._name]
        modules[self._name] = nn.ModuleList(self._as_run())
        try:
            yield
        finally:
            modules[self._name] = own

    def _run(
        self, backbone: Any, batch: Padded, first: Enter | None = None, last: Exit | None = None
    ) -> Tensor:
        """[B, T, H] that ``last`` gave, else the final hidden states; at padding anything."""
        self.select()
        ids, positions = batch.ids, batch.positions + self._first_position
        seen: Tensor | None
        spread = self._spread(batch)
        if spread is not None:
            seen, places = spread
            ids, positions = (each.flatten()[places][None] for each in (ids, positions))
            if first is not None:
                first.source = first.source.flatten(0, 1)[places][None]  # type: ignore[union-attr]
        else:
            seen = batch.mask.long() if self.bidirectional else batch.attention_mask
        if self.noise is not None and self.backbone.training:
            self.noise.follow(batch, spread and spread[1])
        with autocast(self.device, self.precision):
            out = backbone(
                input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=False
            )
        hidden = out.last_hidden_state if last is None else last.output
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if spread is None:
            return hidden  # type: ignore[no-any-return]
        whole = hidden.new_zeros(batch.mask.numel(), hidden.shape[-1])
        whole[places] = hidden[0]
        return whole.view(*batch.mask.shape, -1)  # type: ignore[no-any-return]

    def _spread(self, batch: Padded) -> tuple[Tensor, Tensor] | None:
        """How real tokens are spread in attention, and their places, where they are to be run alone.

        Compiled, also where there is little padding: one piece of code is made in less time than two.
        """
        if not self.unpads or batch.ids.shape[1] > self._window:
            return None
        if batch.segments is not None:
            return attention.spread_apart(batch)
        alone = batch.plain and (bool(self._compiled) or batch.waste > LITTLE)
        return attention.spread_of(rounded(batch.mask)) if alone else None

    def _try_segments(self) -> bool:
        """Whether sequences in one row give what they give alone, on three short ones."""
        vocabulary = self.backbone.config.get_text_config().vocab_size
        ids = [(7 * i + 3) % vocabulary for i in range(9)]
        common, *ends = ids[:3], ids[3:5], ids[5:9]
        together = pad_segments([[common, *ends]], 0, self.device)
        want = [self.hidden(pad([common + end], 0, self.device))[0, 3:] for end in ends]
        return torch.allclose(self.hidden(together)[0, 3:], torch.cat(want), atol=1e-4, rtol=1e-4)

    def _try_ahead(self) -> bool:
        """Whether what a token gives changes with those after it, on four and then five."""
        vocabulary = self.backbone.config.get_text_config().vocab_size
        ids = [(7 * i + 3) % vocabulary for i in range(5)]
        alone, followed = (self.hidden(pad([ids[:n]], 0, self.device))[0] for n in (4, 5))
        return not torch.allclose(followed[:4], alone, atol=1e-4, rtol=1e-4)

    def _try_unpadded(self) -> bool:
        """Whether rows give the same with their padding and without, on two."""
        vocabulary = self.backbone.config.get_text_config().vocab_size
        ids = [(7 * i + 3) % vocabulary for i in range(11)]
        batch = pad([ids[:3], ids[3:]], 0, self.device)
        padded = self.hidden(batch)[batch.mask]
        self.unpads = True
        return torch.allclose(self.hidden(batch)[batch.mask], padded, atol=1e-4, rtol=1e-4)

    def _try_parts(self) -> bool:
        """Whether the two parts, one after the other, are the whole, on eight tokens."""
        ids = torch.arange(8, device=self.device)[None] % self.backbone.config.vocab_size
        batch = Padded(ids, torch.ones_like(ids, dtype=torch.bool))
        self.splits = True
        whole, cut = self.hidden(batch), self.hidden(batch, self.lower(batch))
        return torch.allclose(whole, cut, atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def _plainly(self, attempt: Callable[[], bool]) -> bool:
        """The outcome of an attempt without dropout and in fp32, where like is like.

        False where the architecture cannot do it at all.
        """
        was_training, precision = self.backbone.training, self.precision
        self.backbone.eval()
        self.precision = "fp32"
        try:
            return attempt()
        except TRIED:
            return False
        finally:
            self.precision = precision
            self.backbone.train(was_training)

    def copied(self, model: Any, *, apart: bool = False) -> tuple[Any, "Stack"]:
        """A deep copy, not trained, of the model around this backbone; unless apart it shares the frozen part."""
        shared = [] if apart else self.shared_modules()
        memo: dict[int, Any] = {id(module): module for module in shared}
        memo |= {id(p): p for module in shared for p in module.parameters()}
        twin = copy.deepcopy(model, memo).eval().requires_grad_(False)
        return twin, Stack(
            twin.base_model,
            self.frozen,
            self.precision,
            like=(self.splits, self.segments, self.bidirectional, self.unpads),
        )

    def shared_modules(self) -> list[nn.Module]:
        """The frozen modules: what comes before the blocks, and the lowest blocks."""
        return [*self._before, *self._blocks[: self.frozen]]

    def equals_below(self, other: "Stack") -> bool:
        """Whether the frozen parts of two backbones hold the same weights."""
        mine, others = self.shared_modules(), other.shared_modules()
        if not (self.splits and other.splits) or len(mine) != len(others):
            return False
        pairs = list(zip(mine, others, strict=True))
        if [type(a) for a, _ in pairs] != [type(b) for _, b in pairs]:
            return False
        for a, b in pairs:
            left, right = a.state_dict(), b.state_dict()
            if left.keys() != right.keys():
                return False
            if not all(torch.equal(left[k], right[k]) for k in left):
                return False
        return True

    def share_below(self, other: "Stack") -> None:
        """Use the other's frozen modules in place of the equal ones here; memory is freed."""
        blocks = getattr(self._owner, self._name)
        names = [n for n, _ in _children_before(self._owner, blocks)]
        for name, module in zip(names, other._before, strict=True):
            setattr(self._owner, name, module)
        for i, block in enumerate(other._blocks[: self.frozen]):
            blocks[i] = block
        self._before, self._blocks = list(other._before), list(blocks)


def _nothing() -> None:
    """One backbone, one model: there is nothing to choose."""


def _children_before(owner: nn.Module, blocks: nn.Module) -> list[tuple[str, nn.Module]]:
    """What comes before the list of blocks, also where a child of ``owner`` holds that list."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in owner.named_children():
        if any(module is blocks for module in child.modules()):
            return found if child is blocks else found + _children_before(child, blocks)
        found.append((name, child))
    return found


def _window(backbone: Any) -> float:
    """How many tokens a row may have before a block sees less than all before it."""
    config = backbone.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return math.inf
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if size), default=math.inf)


def _position_table(backbone: Any) -> tuple[int, int | None]:
    """Where an encoder's own table of positions begins, and how many it holds; (0, None) if none.

    RoBERTa and its kin begin after their padding id.
    """
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return 0, None
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    return first, table.num_embeddings - first
