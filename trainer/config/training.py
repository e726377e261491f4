"""Settings of pretraining, SFT and the reward model, and what every training has."""

from dataclasses import dataclass
from typing import Literal

from trainer.config.drawing import Precision
from trainer.config.ranges import ABOVE_0
from trainer.errors import ConfigError

TrainOn = Literal["response", "assistant"]
ObjectiveName = Literal["causal", "masked"]


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
    """Gradients of each model are scaled down to this length; 0 leaves them."""
    batch: int = 32
    """Rows per optimiser step (SFT: demonstrations; RM: rankings)."""
    micro_tokens: int = 4096
    """Padded tokens per forward pass: batches are cut into micro-batches under this size."""
    precision: Precision = "auto"
    """bf16 is autocast over fp32 master weights; auto is that where the machine has instructions for
    it, else fp32."""
    freeze_layers: int = 0
    """The lowest n transformer blocks, and the embeddings when n > 0, are not trained."""
    lora_rank: int = 0
    """Rank of LoRA adapters (arXiv 2106.09685), trained in place of the weights; 0 trains those."""
    lora_alpha: float = 16.0
    """What an adapter adds is scaled by this over its rank."""
    lora_dropout: float = 0.0
    """On what adapters read; in SFT only, nothing else has dropout."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter; none is all of those in the blocks."""
    gradient_checkpointing: bool = False
    """Keep a block's input alone and run it again in the backward pass: less memory, more time."""
    compile: bool = False
    """Run the blocks through torch.compile, which needs a C++ compiler."""
    shard: bool = False
    """Of several processes each holds its share of weights, gradients and optimiser state (FSDP2),
    rather than all of them."""
    zero_stage: Literal[0, 1, 2] = 0
    """Of several processes each holds its share of the optimiser state (DeepSpeed's ZeRO, stage 1 or
    2); 0 is all of it."""
    checkpoint_every: int = 50
    """Optimiser steps between checkpoints."""
    keep_checkpoints: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        self._refuse_with_shard({"lora_rank": "0", "compile": "false", "zero_stage": "0"})

    def _refuse_with_shard(self, off: dict[str, str]) -> None:
        """ConfigError if weights are to be shared out and a setting, by name, is not off."""
        for name, value in off.items():
            if self.shard and str(getattr(self, name)).lower() != value:
                raise ConfigError(
                    f"shard does not go together with {name}: set {name} to {value}, or shard (under"
                    " accelerate, its use of FSDP) to false."
                )


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
        super().__post_init__()
        chosen = self.mask_token_share + self.random_token_share
        if not chosen <= 1 + 1e-9:
            raise ConfigError(
                "pretrain settings: the sum of mask_token_share and random_token_share is"
                f" {chosen}; it must be at most 1."
            )
        if self.lora_rank:
            raise ConfigError(
                "pretrain settings.lora_rank: pretraining trains the weights themselves; set it"
                " to 0, or train adapters in stage sft."
            )
        if self.objective == "masked" and (self.gradient_checkpointing or self.compile):
            raise ConfigError(
                "pretrain settings: gradient_checkpointing and compile are for the causal"
                " objective; set both to false for the masked one."
            )
        if self.freeze_layers and (self.fresh or self.objective == "masked"):
            raise ConfigError(
                "pretrain settings.freeze_layers is for a causal model with weights to keep:"
                " set it to 0 with fresh weights or the masked objective."
            )


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
            if value is not None and not ABOVE_0.holds(value):
                raise ConfigError(
                    f"mixture: the {name} of {self.demonstrations} is {value}; it must be"
                    f" {ABOVE_0.says}."
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
    pretrain_text: str | None = None
    """A UTF-8 file or a folder of them, of which windows are mixed in; none, no text is."""
    pretrain_share: float = 0.1
    """Their share of all examples (paper C.4: 10 % where PPO's policy is to start)."""
    pretrain_tokens: int = 256
    """Tokens of a window."""
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
    frozen_states_mb: int = 1024
    """MiB of hidden states above the frozen blocks that are kept from one epoch to the next."""
    frozen_states: str | None = None
    """Folder in which they are kept for other runs that freeze the same blocks; none, nowhere."""
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
        super().__post_init__()
        if self.ties == "model" and self.loss != "pairwise":
            raise ConfigError(
                "reward settings.ties is 'model', which only the pairwise loss does: set loss to"
                " 'pairwise', or ties to 'drop'."
            )

    @property
    def modelled_tie(self) -> float | None:
        """The threshold if ties are modelled."""
        return self.tie_threshold if self.ties == "model" else None
