"""The four models of PPO (three where a known reward scores) and all that a checkpoint of it must hold.

Policy and value model are trained; reference and reward model stay. What is frozen is held once:
the policy's lower part serves its reference, and the reward and value models too if theirs is
the same to the bit.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer import distributed, losses
from trainer.config import PPOConfig
from trainer.data import ExampleBatch, Prompt
from trainer.errors import ModelError
from trainer.idle import nothing, run_idly
from trainer.models import (
    LanguageModel,
    ScalarModel,
    equip,
    load_weights,
    trained,
)
from trainer.one_backbone import (
    LOADED_WHOLE,
    Cast,
    policy_and_reference,
    reward_adapter,
    with_foreign_reward,
    with_reward_adapter,
    with_whole_reward,
)
from trainer.padded import pad
from trainer.reading import Reader, known_scores
from trainer.rollout import BuiltIn, Generator, Rollout
from trainer.runtime import Checkpoints, Meter, Optimiser
from trainer.sampler import merged, sampler_of
from trainer.sharding import Idle, copied, held, here, like, load_device, wanted
from trainer.stack import pick_device
from trainer.text import Codec
from trainer.vllm_client import VLLM

OTHER_TOKENIZER = (
    "The reward model has another tokenizer: answers are encoded again for it, and the value"
    " model starts from the policy."
)
ENCODED_AGAIN = "The reward model has another tokenizer: answers are encoded again for it."
SEES_AHEAD = (
    "The reward model is an encoder, whose tokens see those after them: the value model starts"
    " from the policy."
)
NO_REWARD_MODEL = (
    "Answers were scored by the known reward {}, not by a model; the value model starts from the"
    " policy."
)


EARLIER_VALUE = "The value model started from that of an earlier run."

_Lowers = tuple[Tensor | None, Tensor | None]


class Actors:
    """Policy, reference, value model and reward model, which is none with a known reward."""

    def __init__(self, config: PPOConfig) -> None:
        self.codec = Codec.load(config.policy)
        self.reward_codec = Codec.load(config.reward) if config.reward else self.codec
        self.reads_tokens = self.codec.fingerprint == self.reward_codec.fingerprint
        self.notes: tuple[str, ...] = ()
        self.config = config
        if config.lora_rank:
            self._load_adapted(config, pick_device())
        else:
            self._load_whole(config, load_device(config, pick_device()))
        positions = None if self.reward is None else self.reward.stack.positions
        self.reader = Reader(self.codec, self.reward_codec, positions)
        self.generator: Generator = BuiltIn(lambda: sampler_of(self.policy))
        if config.generator == "vllm":
            self.generator = VLLM(config, self._for_server)
        # in each epoch the rows are dealt to the processes anew
        self.keeps = config.keep_frozen_states and distributed.size() == 1
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def _load_whole(self, config: PPOConfig, device: torch.device) -> None:
        """Four models, of which only what is frozen is held once."""
        frozen, precision = config.freeze_layers, config.precision
        apart = wanted(config)  # a block is gathered for one model
        self.policy = LanguageModel.load(config.policy, frozen, precision, device)
        self.reference = self.policy.frozen_copy(apart=apart)
        reward = self._load_reward(config, device)
        earlier = self._earlier_value(config, device) if config.value else None
        self.reward: ScalarModel | None
        if reward is not None and self.starts_value:
            self.shares = self.policy.stack.equals_below(reward.stack)
            if self.shares and not apart:
                reward.stack.share_below(self.policy.stack)
            self.value, self.reward = reward, reward.frozen_copy(apart=apart)
        else:
            self.shares = False
            self.reward = None if reward is None else reward.frozen_copy(apart=apart)
            self.value = earlier or self._fresh_value(config, device)
        for model in (self.policy, self.reference, self.value, self.reward):
            if model is not None:
                equip(model, config)

    def _load_adapted(self, config: PPOConfig, device: torch.device) -> None:
        """The four with LoRA: one model in memory, or two."""
        pair, folder = policy_and_reference(config, device), reward_adapter(config)
        if folder is not None:
            self.starts_value = True
            cast = with_reward_adapter(config, *pair, folder)
        else:
            cast = self._cast_of(config, pair, device)
            if cast.reward is not None:
                self.notes = (*self.notes, LOADED_WHOLE)
        self.policy, self.reference, self.value, self.reward, self.shares = cast

    def _cast_of(
        self, config: PPOConfig, pair: tuple[LanguageModel, LanguageModel], device: torch.device
    ) -> Cast:
        reward = self._load_reward(config, device)
        if reward is not None and self.starts_value:
            return with_whole_reward(config, *pair, reward)
        head = self._fresh_value(config, device).head
        return with_foreign_reward(config, *pair, reward, head)

    def _load_reward(self, config: PPOConfig, device: torch.device) -> ScalarModel | None:
        """The reward model, if there is one; says whether the value model can start from it, and
        notes if not.
        """
        if config.reward_function is not None:
            self.starts_value = False
            self.notes = (NO_REWARD_MODEL.format(config.reward_function),)
            return None
        below = config.freeze_layers if self.reads_tokens else 0
        reward = ScalarModel.load(config.reward, below, config.precision, device)
        self.starts_value = self.reads_tokens and not reward.stack.bidirectional
        if not self.starts_value:
            self.notes = (SEES_AHEAD if self.reads_tokens else OTHER_TOKENIZER,)
            if reward.stack.positions is not None:
                length = f"The reward model reads at most the last {reward.stack.positions} tokens."
                self.notes = (*self.notes, length)
        return reward

    def _fresh_value(self, config: PPOConfig, device: torch.device) -> ScalarModel:
        """A value model on the policy's backbone, loaded again, under a new head."""
        return ScalarModel.fresh(
            config.policy,
            config.freeze_layers,
            config.precision,
            device,
            pad_id=self.codec.pad_id,
            seed=config.seed,
        )

    def _earlier_value(self, config: PPOConfig, device: torch.device) -> ScalarModel:
        """The value model of an earlier run, in place of whatever it would start from here."""
        if Codec.load(config.value).fingerprint != self.codec.fingerprint:
            raise ModelError(
                f"The value model {config.value} has another tokenizer than the policy."
            )
        value = ScalarModel.load(config.value, config.freeze_layers, config.precision, device)
        if value.stack.bidirectional:
            raise ModelError(f"{config.value} is an encoder, and a value may not see ahead.")
        self.starts_value = False
        self.notes = (EARLIER_VALUE, *self.notes[1:])  # the first said where it starts otherwise
        if not self.reads_tokens:
            self.notes = (*self.notes, ENCODED_AGAIN)
        return value

    def lowers(self, batch: ExampleBatch) -> _Lowers:
        """Hidden states above the frozen part: of the policy, and of the value model."""
        lower = self.policy.stack.lower(batch.tokens)
        return lower, lower if self.shares else self.value.stack.lower(batch.tokens)

    def lowers_kept(self, rows: Sequence[int], batch: ExampleBatch) -> _Lowers:
        """``lowers`` of some episodes of a rollout batch, for ``lowers_again`` to give."""
        lower, value_lower = self.lowers(batch)
        if self.keeps and lower is not None and value_lower is not None:
            for place, (row, length) in enumerate(zip(rows, batch.tokens.mask.sum(1), strict=True)):
                mine = lower[place, :length]
                other = mine if value_lower is lower else value_lower[place, :length]
                self._kept[row] = (mine, other)
        return lower, value_lower

    def lowers_again(self, rows: Sequence[int], batch: ExampleBatch) -> _Lowers:
        """What ``lowers`` gives, from what was kept of these episodes if anything was."""
        if rows[0] not in self._kept:
            return self.lowers(batch)
        lower = pad_sequence([self._kept[row][0] for row in rows], batch_first=True)
        if self.shares:
            return lower, lower
        return lower, pad_sequence([self._kept[row][1] for row in rows], batch_first=True)

    def idle(self, *models: LanguageModel | ScalarModel | None) -> Idle:
        """A pass through what is frozen, and then through ``models`` (those there are), that adds
        nothing; None where no process waits for one without rows.
        """

        def idle() -> None:
            batch = nothing(self.policy.stack.device)
            lower, value_lower = self.lowers(ExampleBatch(batch, batch.mask))
            for model in models:
                if model is None:
                    continue
                if isinstance(model, LanguageModel):
                    run_idly(model, batch, lower)
                elif model is self.value or self.starts_value:
                    run_idly(model, batch, value_lower)
                else:
                    run_idly(model, batch, model.stack.lower(batch))

        return idle if self.policy.stack.in_step else None

    def forget(self) -> None:
        """Let go of what was kept: the episodes are others now."""
        self._kept.clear()

    def _for_server(self) -> Any:
        """The policy of now as a server is to load it."""
        if self.policy.adapter is not None:
            return merged(self.policy, self.config)
        return sampler_of(self.policy)

    @torch.no_grad()
    def scores(
        self,
        rollout: Rollout,
        prompts: Sequence[Prompt],
        rows: Sequence[int],
        batch: ExampleBatch,
        lower: Tensor | None,
    ) -> Tensor:
        """Scores [b] of some episodes: the reward model's, or the known reward's.

        ``lower`` as ``lowers`` gave it second. Read at the last real token; the end token is there exactly where it was sampled.
        """
        if self.reward is None:
            answers = [rollout.answers[row] for row in rows]
            return known_scores(self.config.reward_function, self.codec, answers)
        if self.starts_value:
            return self.reward.scores(batch.tokens, lower=lower)
        ids = [
            self.reader.ids(
                prompts[row].row.prompt,
                rollout.prompts[row],
                rollout.answers[row],
                finished=rollout.finished[row],
            )
            for row in rows
        ]
        tokens = pad(ids, self.reward_codec.pad_id, batch.tokens.ids.device)
        return self.reward.scores(tokens, lower=self.reward.stack.lower(tokens))


class Progress:
    """Where a run stands: weights, optimiser, average, best weights, and the rollout in work."""

    def __init__(self, config: PPOConfig, actors: Actors, checkpoints: Checkpoints) -> None:
        self.actors, self.checkpoints = actors, checkpoints
        self.policy_weights, self.value_weights = trained(actors.policy), trained(actors.value)
        self.optimiser = Optimiser(
            [
                (self.policy_weights.values(), config.learning_rate),
                (self.value_weights.values(), config.value_learning_rate),
            ],
            config,
        )
        self.average = held(self.policy_weights) if config.ema_decay > 0 else {}
        self.decay = config.ema_decay
        self.keeps_best = config.keep_best
        self.best: dict[str, Any] = {}  # weights, objective, iteration and step of the best look
        self.kl_coef = config.kl_coef  # beta of now
        self.meter = Meter()
        self.iteration = 0  # rollout batches done
        self.step = 0  # optimiser steps done
        self.place = 0  # optimiser steps done in this rollout batch
        self.sums: dict[str, float] = {}  # figures of those steps
        self.in_work: dict[str, Any] = {}  # the rollout batch between two of its steps
        state = checkpoints.load()
        if state is not None:
            self._restore(state)

    def after_step(self, figures: dict[str, float]) -> None:
        """Count an optimiser step and move the average."""
        self.step, self.place = self.step + 1, self.place + 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.average:
            now = [here(self.policy_weights[name]) for name in self.average]
            losses.ema_update(self.average.values(), now, self.decay)

    def after_iteration(self) -> None:
        """Count a rollout batch; nothing is in work any more."""
        self.iteration, self.place, self.sums, self.in_work = self.iteration + 1, 0, {}, {}

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[None]:
        """Inside, the policy has the weights that a look is at: those of now, or with
        ``keep_best`` those that would be saved.
        """
        if not (self.keeps_best and self.average):
            yield
            return
        now = held(self.policy_weights)
        load_weights(self.actors.policy.model, self.average)
        try:
            yield
        finally:
            load_weights(self.actors.policy.model, now)

    def consider(self, objective: float) -> None:
        """Keep the weights of this look, after ``place`` steps of a rollout batch, if no earlier
        one was as good.
        """
        if objective > self.best.get("objective", -math.inf):
            self.best = {
                "weights": copied(self.average or self.policy_weights),
                "objective": objective,
                "iteration": self.iteration + 1,
                "step": self.step,
            }

    def result(self) -> dict[str, Tensor]:
        """The policy weights to save: the best if they are kept, else the average if there is one."""
        return self.best.get("weights") or copied(self.average or self.policy_weights)

    def save(self) -> None:
        self.checkpoints.save(
            self.step,
            {
                "iteration": self.iteration,
                "step": self.step,
                "place": self.place,
                "sums": self.sums,
                "in_work": self.in_work,
                "policy": copied(self.policy_weights),
                "value": copied(self.value_weights),
                "optimiser": self.optimiser.state(),
                "average": copied(self.average),
                "best": self.best,
                "kl_coef": self.kl_coef,
                "meter": self.meter.state(),
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.iteration, self.step, self.place = state["iteration"], state["step"], state["place"]
        self.sums, self.in_work = state["sums"], state["in_work"]
        self.average = {
            name: like(tensor, self.policy_weights[name])
            for name, tensor in state["average"].items()
        }
        self.best, self.kl_coef = state["best"], state["kl_coef"]
        load_weights(self.actors.policy.model, state["policy"])
        load_weights(self.actors.value.model, state["value"])
        self.optimiser.restore(state["optimiser"])
        self.meter.restore(state["meter"])
