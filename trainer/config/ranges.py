"""The numbers that each setting may have: one table for all stages, because a name means the same in each."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Range(NamedTuple):
    """What a number may be: in words, after "it must be", and as a condition on finite numbers."""

    says: str
    of: Callable[[float], bool]

    def holds(self, value: float) -> bool:
        """Whether ``value`` is finite and in the range."""
        return math.isfinite(value) and self.of(value)


ABOVE_0 = Range("above 0", lambda x: x > 0)

_NAMES: dict[Range, set[str]] = {
    ABOVE_0: {
        "k", "batch", "chunk", "epochs", "minibatch", "episodes", "micro_tokens", "max_new_tokens",
        "max_prompt_tokens", "max_steps", "documents", "learning_rate", "value_learning_rate",
        "adam_eps", "checkpoint_every", "keep_checkpoints", "valid_every", "epoch_examples",
        "pack_tokens", "eval_every", "eval_new_tokens", "generate_batch", "kl_target", "kl_horizon",
        "clip", "value_clip", "target_kl_stop", "null_space_gradients", "null_space_sequences",
        "ptx_per_episode", "lora_alpha", "tie_threshold", "vllm_timeout",
    },
    Range("0 or more", lambda x: x >= 0): {
        "temperature", "weight_decay", "max_grad_norm", "freeze_layers", "lora_rank", "threads",
        "valid_windows", "eval_prompts", "frozen_states_mb", "head_scale", "margin", "l2",
        "kl_coef", "value_coef", "ptx_coef", "missing_end_penalty", "warmup", "value_warmup",
        "importance_above", "waiting",
    },
    Range("0 or more and under 0.5", lambda x: 0 <= x < 0.5): {"label_smoothing"},
    Range("0 or more and under 1", lambda x: 0 <= x < 1): {
        "adam_beta1", "adam_beta2", "lora_dropout", "residual_dropout", "ema_decay",
    },
    Range("from 0 to 1", lambda x: 0 <= x <= 1): {
        "gamma", "lam", "warmup_fraction", "final_lr_fraction", "mask_token_share",
        "random_token_share",
    },
    Range("above 0 and under 1", lambda x: 0 < x < 1): {"pretrain_share"},
    Range("above 0 and at most 1", lambda x: 0 < x <= 1): {"mask_rate"},
    Range("at least 1", lambda x: x >= 1): {"importance_cap"},
    Range("at least 2", lambda x: x >= 2): {"max_tokens", "ptx_tokens", "pretrain_tokens", "keep"},
    Range("from 1 to 65535", lambda x: 1 <= x <= 65535): {"port"},
    Range("from 0 to 2^63 - 1", lambda x: 0 <= x < 2**63): {"seed"},
    Range("a finite number", lambda x: True): {"missing_end_score"},
}  # fmt: skip

RANGES = {name: allowed for allowed, names in _NAMES.items() for name in names}

IN_A_STAGE = {("ppo", "temperature"): ABOVE_0}  # its log-probabilities are divided by it
"""What a stage has otherwise."""


def range_of(stage: str, name: str) -> Range | None:
    """What a setting of a stage may be; None if it is no number."""
    return IN_A_STAGE.get((stage, name)) or RANGES.get(name)
