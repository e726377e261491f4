"""How ``accelerate launch`` was told to share a run out over its processes, read from its environment."""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from trainer.errors import ConfigError

_OTHERWISE = " Launch with --use_fsdp --fsdp_version 2, which shares the weights out too,"


def launched_plan() -> dict[str, Any]:
    """The settings that its plan stands for: ``shard``, ``zero_stage`` or none.

    ConfigError where it was told of DeepSpeed what is not there.
    """
    if _says("ACCELERATE_USE_DEEPSPEED"):
        return {"zero_stage": _zero_stage()}
    return {"shard": True} if _says("ACCELERATE_USE_FSDP") else {}


def require_deepspeed() -> None:
    """ConfigError where it is not installed, or is another than was tested."""
    try:
        found = version("deepspeed")
    except PackageNotFoundError:
        found = None
    if found is None or not found.startswith("0.19."):
        raise ConfigError(
            f"DeepSpeed is {'not installed here' if found is None else f'{found} here, untested'}: pip"
            " install deepspeed==0.19.8 (DS_BUILD_OPS=0 in the environment: nothing is compiled), or do"
            f" without.{_OTHERWISE} or --multi_gpu; in the settings shard, or zero_stage 0."
        )


def _says(name: str) -> bool:
    return os.environ.get(name, "").lower() in {"1", "true"}


def _zero_stage() -> int:
    """1 or 2; accelerate's default is 2."""
    told = _zero_settings(os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none"))
    stage = str(told.get("stage", os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")))
    if stage not in {"1", "2"}:
        raise ConfigError(
            f"DeepSpeed was told ZeRO stage {stage}; here it is 1 or 2.{_OTHERWISE} as stage 3 does, or"
            " with --multi_gpu, where each process holds everything."
        )
    for name in ("offload_optimizer", "offload_param"):
        device = os.environ.get(f"ACCELERATE_DEEPSPEED_{name.upper()}_DEVICE", "none")
        device = (told.get(name) or {}).get("device") or device
        if device != "none":
            raise ConfigError(
                f"DeepSpeed was told to put {name} on {device}, which this trainer cannot: set it to"
                f" none.{_OTHERWISE} where memory is short."
            )
    return int(stage)


def _zero_settings(path: str) -> dict[str, Any]:
    """What the DeepSpeed config that accelerate names says of ZeRO."""
    if path in {"", "none"}:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = dict(json.load(file).get("zero_optimization", {}))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"The DeepSpeed config {path} cannot be read: {error}") from None
    return {name: value for name, value in found.items() if value != "auto"}
