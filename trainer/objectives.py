"""The two objectives of pretraining: what is read, what is to be guessed, and the model that does.

``causal`` guesses every next token (GPT); ``masked`` guesses tokens of which most were hidden,
from both sides (BERT, arXiv 1810.04805 section 3.1).
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationConfig,
)

from trainer.config import ObjectiveName, Precision, PretrainConfig
from trainer.dropout import Noise, leave_repeated, set_dropout
from trainer.errors import ModelError
from trainer.idle import idle_pass, nothing
from trainer.models import LanguageModel, equip
from trainer.padded import Padded, pad
from trainer.sharding import Idle, add_nothing, load_device, share_out, wanted
from trainer.stack import TRIED, autocast, blocks_of, pick_device
from trainer.text import Codec, affixes

Key = Sequence[int | str]


class Guess(NamedTuple):
    """One window of text as a task."""

    ids: list[int]  # what the model reads
    positions: list[int]  # of the tokens asked about, rising
    targets: list[int]  # those tokens


class Masking(NamedTuple):
    """How tokens are hidden: the numbers of BERT, and the vocabulary they work on."""

    rate: float
    mask_share: float
    random_share: float
    mask_id: int
    ordinary: Sequence[int]  # ids that may stand in at random: all that are not special
    special: Collection[int]  # ids that are never asked about


def mask_window(window: Sequence[int], masking: Masking, key: Key) -> Guess:
    """Hide ``rate`` of a window's tokens, rounded, at least one; the noise is a function of ``key``.

    Of the chosen tokens ``mask_share`` become the mask token, ``random_share`` a random one (each
    drawn by itself), and the rest stay.
    """
    noise = random.Random(":".join(map(str, key)))
    open_to_it = [i for i, token in enumerate(window) if token not in masking.special]
    count = min(len(open_to_it), max(1, math.floor(masking.rate * len(open_to_it) + 0.5)))
    positions = sorted(noise.sample(open_to_it, count))
    ids = list(window)
    for i in positions:
        lot = noise.random()
        if lot < masking.mask_share:
            ids[i] = masking.mask_id
        elif lot < masking.mask_share + masking.random_share:
            ids[i] = noise.choice(masking.ordinary)
    return Guess(ids, positions, [window[i] for i in positions])


# ---- models -------------------------------------------------------------------------------------


class Objective(ABC):
    """A model and what it is to learn; ``model`` is the Hugging Face one, fp32 weights."""

    model: Any
    perplexity_name: str
    length: int  # tokens of text in a window
    start_ids: Sequence[int]  # what a document in the stream of text begins with

    @abstractmethod
    def guess(self, window: Sequence[int], key: Key) -> Guess:
        """The task that a window sets; what is random in it is a function of ``key``."""

    @abstractmethod
    def logprobs(self, batch: Padded, asked: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities in nats [N] of the N targets, row by row; ``asked`` is [B, T]."""

    @property
    @abstractmethod
    def idle(self) -> Idle:
        """A pass that adds nothing, for a process without rows; None where nobody waits for one."""

    @property
    def in_step(self) -> bool:
        """Whether all processes must make the same number of passes."""
        return self.idle is not None

    @abstractmethod
    def train(self, mode: bool, step: int = 0) -> None:
        """Dropout, where the model's config has one, on, with the noise of a step, or off."""


class Causal(Objective):
    """The next token, at every token but the first."""

    perplexity_name = "perplexity"

    def __init__(self, config: PretrainConfig, codec: Codec) -> None:
        self.model = new_model(config).to(load_device(config, pick_device()))
        self.length, self.start_ids = config.max_tokens, codec.start_ids
        if _looks_ahead(self.model):
            raise ModelError(
                f"{config.model} is a {type(self.model).__name__} that sees the tokens it would"
                ' have to predict. Set objective to "masked", or is_decoder in its config.json.'
            )
        self._language = LanguageModel(self.model, config.freeze_layers, config.precision)
        equip(self._language, config)
        self._language.stack.set_dropout(0, config.seed)

    def guess(self, window: Sequence[int], key: Key) -> Guess:
        return Guess(list(window), list(range(1, len(window))), list(window[1:]))

    def logprobs(self, batch: Padded, asked: Tensor, targets: Tensor) -> Tensor:
        lower = self._language.stack.lower(batch)
        return self._language.logprobs(batch, asked, lower=lower)

    @property
    def idle(self) -> Idle:
        return idle_pass(self._language)

    def train(self, mode: bool, step: int = 0) -> None:
        self._language.stack.train(mode, step)


class Masked(Objective):
    """The tokens that were chosen, seen from both sides."""

    perplexity_name = "pseudo_perplexity"

    def __init__(self, config: PretrainConfig, codec: Codec) -> None:
        self._around = affixes(codec.tokenizer)
        self._masking = masking_of(config, codec.tokenizer)
        self.length = config.max_tokens - sum(map(len, self._around))
        if self.length < 2:
            raise ModelError(f"max_tokens is {config.max_tokens}: no room is left for text.")
        end = codec.tokenizer.sep_token_id
        self.start_ids = codec.start_ids or (() if end is None else (end,))
        self.model = new_model(config).to(load_device(config, pick_device()))
        self._masked = MaskedModel(self.model, config.precision, config.seed)
        self._shared_out = wanted(config)
        if self._shared_out:
            share_out(self.model, blocks_of(self.model), pick_device())

    def guess(self, window: Sequence[int], key: Key) -> Guess:
        before, after = self._around
        return mask_window([*before, *window, *after], self._masking, key)

    def logprobs(self, batch: Padded, asked: Tensor, targets: Tensor) -> Tensor:
        logs = torch.log_softmax(self._masked.logits(batch, asked).float(), dim=-1)
        return logs.gather(1, targets[:, None])[:, 0]

    @property
    def idle(self) -> Idle:
        return self._idle if self._shared_out else None

    def _idle(self) -> None:
        batch = pad([[0, 0]], 0, pick_device())
        add_nothing(self.logprobs(batch, batch.mask, batch.ids[0]))

    def train(self, mode: bool, step: int = 0) -> None:
        self.model.train(mode)
        self._masked.noise.step = step


class MaskedModel:
    """A masked language model that makes logits only where they are asked for.

    The head gets the chosen states in place of all of them. Whether the architecture can be
    asked so is tried once, on construction; one that cannot makes all logits.
    """

    def __init__(self, model: Any, precision: Precision, seed: int = 0) -> None:
        self.model, self._precision = model, precision
        self.noise = Noise(seed)
        set_dropout(model, (), 0, self.noise)
        self._chooses = False
        batch = nothing(next(model.parameters()).device)
        leave_repeated(model, lambda: self.logits(batch, batch.mask))
        self._chooses = self._try_choosing()

    def logits(self, batch: Padded, asked: Tensor) -> Tensor:
        """[N, vocabulary] at the N tokens where ``asked`` [B, T] is true, row by row."""
        device = batch.ids.device
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
        if self.model.training and self.noise.used:
            self.noise.follow(batch)
        with autocast(device, self._precision):
            if not self._chooses:
                return self.model(**inputs).logits[asked]  # type: ignore[no-any-return]

            def choose(_module: Any, _args: Any, output: Any) -> Any:
                output.last_hidden_state = output.last_hidden_state[asked][None]
                return output

            hook = self.model.base_model.register_forward_hook(choose)
            try:
                return self.model(**inputs).logits[0]  # type: ignore[no-any-return]
            finally:
                hook.remove()

    @torch.no_grad()
    def _try_choosing(self) -> bool:
        """Whether the chosen logits are those among all, on six tokens and without dropout."""
        device = next(self.model.parameters()).device
        ids = torch.arange(6, device=device).reshape(2, 3)
        asked = torch.tensor([[False, True, False], [True, False, True]], device=device)
        batch = Padded(ids, torch.ones_like(asked))
        precision, self._precision = self._precision, "fp32"
        try:
            self._chooses = False
            every = self.logits(batch, asked)
            self._chooses = True
            chosen = self.logits(batch, asked)
            return chosen.shape == every.shape and torch.allclose(chosen, every, 1e-4, 1e-4)
        except TRIED:
            return False
        finally:
            self._precision = precision


def objective_of(config: PretrainConfig, codec: Codec) -> Objective:
    """The objective that the settings name, with its model; ModelError if they do not fit."""
    objective = Causal(config, codec) if config.objective == "causal" else Masked(config, codec)
    _check_fit(config, objective.model, codec)
    return objective


def masking_of(config: PretrainConfig, tokenizer: Any) -> Masking:
    """ModelError if the tokenizer has no mask token."""
    if tokenizer.mask_token_id is None:
        raise ModelError(
            f"The tokenizer of {config.model} has no mask token, which the masked objective needs."
        )
    special = frozenset(tokenizer.all_special_ids)
    return Masking(
        rate=config.mask_rate,
        mask_share=config.mask_token_share,
        random_share=config.random_token_share,
        mask_id=tokenizer.mask_token_id,
        ordinary=[i for i in sorted(tokenizer.get_vocab().values()) if i not in special],
        special=special,
    )


def batch_guesses(
    guesses: Sequence[Guess], pad_id: int, device: torch.device
) -> tuple[Padded, Tensor, Tensor]:
    """The batch [B, T], where it asks [B, T], and the targets [N], row by row."""
    batch = pad([guess.ids for guess in guesses], pad_id, device)
    asked = torch.zeros_like(batch.mask)
    for row, guess in enumerate(guesses):
        asked[row, guess.positions] = True
    targets = torch.tensor([t for guess in guesses for t in guess.targets], device=device)
    return batch, asked, targets


def new_model(config: PretrainConfig) -> Any:
    """The model to start from, on the CPU, in fp32, dropout off: loaded, or drawn by seed."""
    if not config.fresh:
        return load_model(config.model, config.objective)
    auto = AutoModelForCausalLM if config.objective == "causal" else AutoModelForMaskedLM
    try:
        settings = AutoConfig.from_pretrained(config.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model: Any = auto.from_config(settings, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{config.model} has no config of a {config.objective} language model: {error}"
        ) from None
    if (Path(config.model) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(config.model)
    return model.eval()


def load_model(folder: str | Path, kind: ObjectiveName) -> Any:
    """The model of a folder, on the CPU, in fp32, dropout off; ModelError if it is not of that kind."""
    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM
    try:
        return auto.from_pretrained(str(folder), dtype=torch.float32).eval()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} holds no {kind} language model: {error}") from None


@torch.no_grad()
def _looks_ahead(model: Any) -> bool:
    """Whether another last token changes the first state: then the model is no causal one."""
    ids = torch.tensor([[0, 1, 0], [0, 1, 1]], device=next(model.parameters()).device)
    first = model.base_model(input_ids=ids).last_hidden_state[:, 0]
    return not torch.allclose(first[0], first[1], atol=1e-5, rtol=1e-4)


def _check_fit(config: PretrainConfig, model: Any, codec: Codec) -> None:
    """ModelError if the vocabulary or the window is more than the model has room for."""
    rows, largest = model.get_input_embeddings().weight.shape[0], _largest_id(codec.tokenizer)
    if largest >= rows:
        raise ModelError(
            f"The tokenizer has ids up to {largest}, the model only {rows} embeddings: they do"
            " not belong together (with fresh weights, set vocab_size in config.json)."
        )
    room = positions_of(model)
    if room is not None and config.max_tokens > room:
        raise ModelError(
            f"The model has {room} positions: lower max_tokens from {config.max_tokens}."
        )


def _largest_id(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values())


def positions_of(model: Any) -> int | None:
    """Tokens that the model can read at once; None if its config does not say."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if room is not None and name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            if padding is not None:  # RoBERTa counts on from its padding
                return int(room) - int(padding) - 1
    return None if room is None else int(room)
