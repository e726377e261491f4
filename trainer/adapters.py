"""LoRA (arXiv 2106.09685) through peft: adapters in a backbone, switched, merged, saved.

A layer with adapter A [r, in], B [out, r] gives W x + (alpha / r) B A x; B starts at 0. A backbone
may hold several adapters by name, and each model that uses it says before every run which is on.
A weight's name tells what it is: ``<layer>.lora_A.<adapter>.weight``. peft takes seconds to load, so
only a run that has adapters loads it.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainer.blocks import compact
from trainer.config import TrainConfig
from trainer.errors import ModelError
from trainer.model_folder import replaced_folder
from trainer.records import write_atomic
from trainer.stack import Stack

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "adapter"
_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # of every name in peft's files


class Factors(NamedTuple):
    """The adapter of one layer."""

    a: Tensor  # [r, in]
    b: Tensor  # [out, r]

    def change(self, scale: float) -> Tensor:
        """[out, in] what the adapter adds to the layer's matrix."""
        return scale * (self.b.float() @ self.a.float())


# ---- in a backbone --------------------------------------------------------------------------------


def adapt(model: nn.Module, stack: Stack, config: TrainConfig, name: str) -> None:
    """Train a new adapter of these settings above the frozen blocks, and nothing else.

    A is drawn by seed. With bf16 the matrices that are not trained are held in it.
    """
    model.requires_grad_(False)
    layers = targets(stack, config.lora_targets)
    add_adapter(stack, name, lora_config(stack, layers, config), layers, config.seed)
    lighten(stack)
    stack.select = partial(switch, stack.backbone, name)


def add_adapter(stack: Stack, name: str, lora: "LoraConfig", layers: list[str], seed: int) -> None:
    """Put an adapter into these layers of a backbone, trained above its frozen blocks."""
    from peft import inject_adapter_in_model

    training = stack.backbone.training
    known = {id(p): p.requires_grad for p in stack.backbone.parameters()}
    lora.target_modules = set(layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vars(stack.backbone).pop("peft_config", None)  # that of an adapter before, or peft warns
        inject_adapter_in_model(lora, stack.backbone, name)
    below = {id(p) for module in stack.shared_modules() for p in module.parameters()}
    for key, parameter in stack.backbone.named_parameters():
        if belongs(key, name):
            parameter.data = parameter.data.float()  # it came in the type of its layer
            parameter.requires_grad_(id(parameter) not in below)
        else:
            parameter.requires_grad_(known[id(parameter)])  # peft changed it
    stack.backbone.train(training)  # its new dropout is on


def lighten(stack: Stack) -> None:
    """Hold what is not trained of the blocks in bf16, where that is the precision."""
    if stack.precision == "bf16":
        for block in stack.blocks:
            compact(block)


def targets(stack: Stack, wanted: tuple[str, ...]) -> list[str]:
    """Names in the backbone of the linear layers to adapt; ModelError if a wanted one is not there."""
    from peft.tuners.lora import LoraLayer

    above = {id(module) for block in stack.blocks[stack.frozen :] for module in block.modules()}
    linear = [
        name
        for name, module in stack.backbone.named_modules()
        if id(module) in above
        and isinstance(module, nn.Linear | Conv1D | LoraLayer)
        and not (".base_layer" in name or ".lora_" in name)
    ]
    if not wanted:
        return linear
    for want in wanted:
        if not any(f".{name}".endswith(f".{want}") for name in linear):
            names = sorted({name.rpartition(".")[2] for name in linear})
            raise ModelError(
                f"lora_targets names {want!r}, but the blocks that are trained have no such linear"
                f" layer; they have {', '.join(names)}."
            )
    return [n for n in linear if any(f".{n}".endswith(f".{want}") for want in wanted)]


def lora_config(stack: Stack, layers: list[str], config: TrainConfig) -> "LoraConfig":
    """The settings in peft's words."""
    from peft import LoraConfig

    layer = stack.backbone.get_submodule(layers[0])
    conv = isinstance(getattr(layer, "base_layer", layer), Conv1D)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=set(layers),
        fan_in_fan_out=conv,
    )


def switch(backbone: nn.Module, name: str | None) -> None:
    """Turn one adapter on and the others off; none turns all off.

    Not by peft's own switch, which changes what requires gradients too: those of a model whose
    adapter is off for the moment would be dropped without a word.
    """
    from peft.tuners.lora import LoraLayer

    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            module._disable_adapters = name is None
            if name is not None:
                module._active_adapter = [name]


def belongs(parameter: str, adapter: str) -> bool:
    """Whether a parameter, by its name, is part of an adapter."""
    return ".lora_" in parameter and f".{adapter}." in parameter


# ---- in files -------------------------------------------------------------------------------------


def factors(weights: Mapping[str, Tensor]) -> dict[str, Factors]:
    """Layer -> adapter, of weights by parameter name, all of one adapter."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        layer, cut, rest = name.partition(".lora_")
        if cut:
            found.setdefault(layer, {})[rest[0]] = tensor
    return {layer: Factors(pair["A"], pair["B"]) for layer, pair in found.items()}


def merge(model: Any, weights: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """``weights`` by the names of a model without adapters: those of its layers with theirs added."""
    merged = {name: tensor for name, tensor in weights.items() if ".lora_" not in name}
    for layer, adapter in factors(weights).items():
        module: Any = model.get_submodule(layer)
        change = adapter.change(config.lora_alpha / config.lora_rank)
        own = module.weight.detach()
        merged[f"{layer}.weight"] = own + (change.T if isinstance(module, Conv1D) else change)
    return merged


def save_adapter(
    model: Any, weights: Mapping[str, Tensor], dest: Path, config: TrainConfig, kind: str
) -> None:
    """Write an adapter of ``model`` in peft's format; ``kind`` is peft's name of the task.

    The same weights give the same bytes, and no file names a path of this machine.
    """
    from peft import LoraConfig

    prefix = f"{model.base_model_prefix}."
    layers = {layer.removeprefix(prefix) for layer in factors(weights)}
    module = model.get_submodule(prefix + min(layers))
    settings = LoraConfig(
        task_type=kind,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=layers,
        fan_in_fan_out=isinstance(module, Conv1D),
        inference_mode=True,
    ).to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in settings.items()}
    with replaced_folder(dest) as beside:
        tensors = {_PREFIX + _plain_name(k): v.contiguous() for k, v in weights.items()}
        save_file(tensors, beside / _WEIGHTS, metadata={"format": "pt"})
        write_atomic(beside / _SETTINGS, [json.dumps(plain, indent=2, sort_keys=True), "\n"])


def _plain_name(name: str) -> str:
    """A parameter's name without its adapter's."""
    layer, cut, rest = name.partition(".lora_")
    return f"{layer}.lora_{rest[0]}.weight" if cut else name


class Saved(NamedTuple):
    """An adapter read from its folder."""

    lora: "LoraConfig"
    factors: dict[str, Factors]  # by the layer's name in the backbone
    head: Tensor | None  # [1, H] weight of the scalar head

    def put(self, backbone: nn.Module, name: str) -> None:
        """Give the backbone's adapter of that name these weights."""
        own = dict(backbone.named_parameters())
        with torch.no_grad():
            for layer, pair in self.factors.items():
                own[f"{layer}.lora_A.{name}.weight"].copy_(pair.a)
                own[f"{layer}.lora_B.{name}.weight"].copy_(pair.b)


def read_adapter(folder: Path, prefix: str) -> Saved:
    """An adapter that ``save_adapter`` wrote for a model whose backbone has this prefix."""
    from peft import PeftConfig

    try:
        lora = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{folder} holds no adapter: {error}") from None
    lora.task_type, lora.modules_to_save, lora.inference_mode = None, None, False
    found = factors({name.removeprefix(f"{_PREFIX}{prefix}."): t for name, t in tensors.items()})
    heads = [
        t for name, t in tensors.items() if name.endswith(("score.weight", "classifier.weight"))
    ]
    return Saved(lora, found, heads[0] if heads else None)


def is_adapter(folder: Path) -> bool:
    """Whether an adapter was saved there."""
    return (folder / _SETTINGS).is_file() and (folder / _WEIGHTS).is_file()
