"""Settings of PPO."""

from dataclasses import dataclass
from typing import Literal

from trainer.config.drawing import check_missing_end, check_reward
from trainer.config.training import TrainConfig
from trainer.errors import ConfigError
from trainer.known_rewards import KnownRewardName

KLEstimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class PPOConfig(TrainConfig):
    """PPO with a pretraining mix: stage ``ppo`` (paper C.4, equation 2)."""

    policy: str = ""
    """The SFT model: policy at the start, and the reference."""
    reward: str = ""
    """The reward model: scores, and the value model at the start."""
    reward_function: KnownRewardName | None = None
    """A known reward of the answer's text in place of a reward model; the value model then starts
    from the policy."""
    value: str = ""
    """A value model to start from, ``value/`` of an earlier run; empty, the reward model."""
    save_value: bool = False
    """Save the value model too, in the format of a reward model: ``value/`` beside ``model/``."""
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
    value_warmup: int = 0
    """Rollout batches, the first ones, in which the value model learns alone; the paper has none."""
    ema_decay: float = 0.992
    """Exponential moving average of the policy, saved as the model; 0 saves the last weights."""
    generate_batch: int = 64
    """Answers drawn at once."""
    generator: Literal["built-in", "vllm"] = "built-in"
    """What draws the answers: this process, or a vLLM server with the policy's weights."""
    vllm_url: str | None = None
    """Of that server, without the /v1."""
    vllm_weights: str | None = None
    """Folder of this run alone that trainer and server both see under this path: the policy is
    written there before each drawing of answers, and the server then told to load it."""
    vllm_timeout: float = 600.0
    """Seconds without any answer after which the server counts as away."""
    importance_above: float = 0.05
    """Mean absolute difference, in nats per token, of the generator's log-probabilities from the
    trainer's, above which the policy loss of a rollout batch has importance weights."""
    importance_cap: float = 2.0
    """Largest of those weights."""
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
        super().__post_init__()
        self._refuse_with_shard({"generator": "built-in"})
        if self.shard and self.against_forgetting == "null_space":
            raise ConfigError(
                "shard does not go together with the null space: set against_forgetting to mix or"
                " none, or shard (under accelerate, its use of FSDP) to false."
            )
        check_missing_end(self.missing_end_score, self.missing_end_penalty)
        check_reward(self.reward, self.reward_function)
        if self.lora_rank and (self.value or self.save_value):
            raise ConfigError(
                "With LoRA the value model is an adapter, neither saved nor taken from an earlier run:"
                " set value to empty and save_value to false, or lora_rank to 0."
            )
        if self.kl_control == "adaptive" and self.kl_horizon < self.batch:
            raise ConfigError(
                f"kl_horizon is {self.kl_horizon}; it must be at least the batch of {self.batch}"
                " episodes, or one rollout batch would move the KL coefficient too far."
            )
        if self.keep_best and not self.eval_prompts > 0:
            raise ConfigError("keep_best chooses by held-out prompts: set eval_prompts above 0.")
        self._check_generator()

    def _check_generator(self) -> None:
        if self.generator != "vllm":
            return
        if not (self.vllm_url or "").startswith(("http://", "https://")):
            raise ConfigError(
                f"generator is vllm and vllm_url is {self.vllm_url!r}: give the server's address,"
                ' such as "http://127.0.0.1:8000".'
            )
        if not self.vllm_weights:
            raise ConfigError(
                "generator is vllm and there is no vllm_weights: name a folder that the trainer"
                " and the server both see, for the weights after each update."
            )

    @property
    def iterations(self) -> int:
        """Rollout batches in the run."""
        return -(-self.episodes // self.batch)

    @property
    def mixes(self) -> bool:
        """Whether this is PPO-ptx: the third term of equation 2 is there."""
        return self.against_forgetting == "mix" and self.ptx_coef > 0
