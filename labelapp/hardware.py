"""Named plans for the machine of a GPU worker: processes, precision, memory.

A training profile (``labelapp.profiles``) says what is learned, a hardware profile what it is learned on.
Where both name a setting the training profile's counts.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Settings = dict[str, Any]

TRAINED = ("sft", "reward", "ppo")
DEALT = (*TRAINED, "sample", "best", "score")
"""Stages that several processes share."""


@dataclass(frozen=True)
class Hardware:
    """What one run may use."""

    processes: int | Literal["gpu"] = 1
    """On this machine; ``gpu`` is one for each that torch sees."""
    training: Settings = field(default_factory=dict)
    """Settings of SFT, reward model and PPO."""
    stages: dict[str, Settings] = field(default_factory=dict)
    """Settings of one stage, beside those."""

    def settings(self, stage: str) -> Settings:
        """What the plan says about a stage."""
        shared = self.training if stage in TRAINED else {}
        return {**shared, **self.stages.get(stage, {})}

    def starts(self, stage: str) -> int | Literal["gpu"]:
        """Processes to start for a stage."""
        return self.processes if stage in DEALT else 1


_DRAWS_128 = {"sample": {"batch": 128}, "best": {"batch": 128}, "ppo": {"generate_batch": 128}}
_DRAWS_512 = {
    "sample": {"batch": 512},
    "best": {"batch": 512},
    "ppo": {"generate_batch": 512},
    "score": {"micro_tokens": 32768},
}
_SMALL = {"precision": "bf16", "micro_tokens": 4096, "gradient_checkpointing": True}
_LARGE = {"precision": "bf16", "micro_tokens": 32768}

HARDWARE: dict[str, Hardware] = {
    # as the trainer's own defaults have it
    "default": Hardware(),
    # each process has a core: gloo adds up the gradients
    "cpu-2": Hardware(
        processes=2,
        training={"threads": 1},
        stages={"sample": {"threads": 1}, "score": {"threads": 1}},
    ),
    # activations are made again in the backward pass
    "gpu-24gb": Hardware(training=_SMALL, stages=_DRAWS_128),
    "gpu-80gb": Hardware(training=_LARGE, stages=_DRAWS_512),
    # every GPU of the machine holds the whole model and has its share of the rows
    "gpus-24gb": Hardware(processes="gpu", training=_SMALL, stages=_DRAWS_128),
    "gpus-80gb": Hardware(processes="gpu", training=_LARGE, stages=_DRAWS_512),
    # for a model that does not fit one GPU with its optimiser: each has its share of both
    "gpus-24gb-shared": Hardware(
        processes="gpu", training=_SMALL | {"shard": True}, stages=_DRAWS_128
    ),
    "gpus-80gb-shared": Hardware(
        processes="gpu", training=_LARGE | {"shard": True}, stages=_DRAWS_512
    ),
}
