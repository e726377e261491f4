"""Policy, reward model and value model: what the algorithms ask of a language model.

Logits are made only at states whose next token is asked about, a few rows at a time. The reward
model is kept in Hugging Face's sequence-classification format with its bias beside it; one made
from a masked language model, whose sequence classifiers differ, in the token-classification
format. Loading leaves every dropout off; only SFT and pretraining turn it on.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from trainer.adapters import ADAPTER, adapt, belongs, merge, save_adapter
from trainer.blocks import compact
from trainer.config import Precision, TrainConfig
from trainer.errors import ModelError
from trainer.frozen import FrozenStates
from trainer.logprobs import (
    TokenLogprobs,
    TotalLogprob,
    has_odd_logits,
    log_softmax,
    odd_logprobs,
    odd_logs,
    row_chunks,
)
from trainer.model_folder import save_model_folder
from trainer.padded import Padded
from trainer.products import quicken
from trainer.records import write_atomic
from trainer.sharding import hollow, in_one_pass, like, wanted
from trainer.stack import Stack, pick_device

BIAS = "reward_bias.json"


# ---- log-probabilities ------------------------------------------------------------------------


def states_before(batch: Padded, response: Tensor) -> Tensor:
    """[B, T] true where the next token is a response token: the states a choice was made in.

    ``response`` [B, T] is true at the response tokens themselves.
    """
    states = torch.zeros_like(response)
    states[:, :-1] = response[:, 1:]
    return states & batch.mask


class Choices(NamedTuple):
    """What a model thinks of N sampled tokens, row by row; no gradient."""

    logprobs: Tensor  # [N] nats
    entropy: Tensor  # [N] nats, of the distribution the token was drawn from


class LanguageModel:
    """A causal language model: the policy, its reference, or the model SFT trains.

    ``adapter`` names the LoRA adapter it trains in place of its weights, if it does.
    """

    adapter: str | None = None
    hollow: Any = None  # a copy without weights, where they are shared out

    def __init__(self, model: Any, frozen: int, precision: Precision) -> None:
        self.model, self.precision = model, precision
        quicken(model)
        self.stack = Stack(model.base_model, frozen, precision)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._odd = has_odd_logits(model)

    @classmethod
    def load(
        cls, folder: str | Path, frozen: int, precision: Precision, device: torch.device
    ) -> "LanguageModel":
        """The model of a folder, fp32 weights, dropout off; ModelError if there is none."""
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} holds no causal language model: {error}") from None
        return cls(model.to(device).eval(), frozen, precision)

    @in_one_pass
    def logprobs(
        self,
        batch: Padded,
        response: Tensor,
        *,
        lower: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Log-probabilities in nats [N] of the N response tokens, row by row, at ``temperature``.

        ``response`` [B, T] is true at the tokens asked about; ``lower`` is what ``stack.lower``
        gave for the same batch, or None.
        """
        hidden, targets = self._choosing(batch, response, lower), batch.ids[response]
        if self._odd:
            return odd_logprobs(self.model, hidden, targets, temperature)
        head = self.model.get_output_embeddings()
        return TokenLogprobs.apply(  # type: ignore[no-any-return, no-untyped-call]
            hidden, head.weight, head.bias, targets, temperature, self.dtype
        )

    @in_one_pass
    def total_logprob(
        self, batch: Padded, response: Tensor, *, lower: Tensor | None = None
    ) -> Tensor:
        """The sum of ``logprobs``, a scalar, in less time where its gradient is wanted too."""
        hidden, targets = self._choosing(batch, response, lower), batch.ids[response]
        if self._odd:
            return odd_logprobs(self.model, hidden, targets, 1.0).sum()
        head, learns = self.model.get_output_embeddings(), torch.is_grad_enabled()
        return TotalLogprob.apply(  # type: ignore[no-any-return, no-untyped-call]
            hidden, head.weight, head.bias, targets, self.dtype, learns
        )

    @torch.no_grad()
    @in_one_pass
    def choices(
        self,
        batch: Padded,
        response: Tensor,
        *,
        lower: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Choices:
        """``logprobs``, to the bit, and the entropy beside them."""
        hidden, targets = self._choosing(batch, response, lower), batch.ids[response]
        head = self.model.get_output_embeddings()
        matrix = None if self._odd else head.weight.to(self.dtype)
        found = []
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in row_chunks(len(hidden)):
                if matrix is None:
                    logs = odd_logs(self.model, hidden[rows], temperature)
                else:
                    logs = log_softmax(hidden[rows].to(self.dtype), matrix, head.bias, temperature)
                entropy = -(logs.exp() * logs).sum(1)
                found.append((logs.gather(1, targets[rows, None])[:, 0], entropy))
        return Choices(*(torch.cat(part) for part in zip(*found, strict=True)))

    def frozen_copy(self, *, apart: bool = False) -> "LanguageModel":
        """The same weights, to be left as they are: the reference. Unless apart frozen parts are shared."""
        twin = copy.copy(self)
        twin.model, twin.stack = self.stack.copied(self.model, apart=apart)
        if self.precision == "bf16":
            compact(twin.model.base_model)
        return twin

    def _choosing(self, batch: Padded, response: Tensor, lower: Tensor | None) -> Tensor:
        """Final hidden states [N, H] of the states in which the response tokens were chosen."""
        return self.stack.hidden(batch, lower)[states_before(batch, response)]


class ScalarModel:
    """A backbone with one scalar at every token: the reward model, and the value model.

    The backbone may be an encoder, which only a reward model should be: its tokens see those
    after them. ``adapter`` as in LanguageModel; ``stack`` is that of a backbone others use too.
    """

    adapter: str | None = None

    def __init__(
        self, model: Any, frozen: int, precision: Precision, stack: Stack | None = None
    ) -> None:
        self.model, self.precision = model, precision
        quicken(model.base_model)
        self.stack = stack or Stack(model.base_model, frozen, precision)
        self.frozen = FrozenStates(self.stack, 0)

    @property
    def head(self) -> nn.Linear:
        """The scalar head."""
        return _head(self.model)

    @classmethod
    def fresh(
        cls,
        folder: str | Path,
        frozen: int,
        precision: Precision,
        device: torch.device,
        *,
        pad_id: int,
        seed: int,
        scale: float = 1.0,
    ) -> "ScalarModel":
        """A language model's backbone under a new head, drawn from N(0, scale^2 / (H + 1)) by seed."""
        model = _load_scored(folder)
        _set_pad(model, pad_id)
        head = _head(model)
        noise = torch.randn(1, head.in_features, generator=torch.Generator().manual_seed(seed))
        head.weight.data = scale * noise / (head.in_features + 1) ** 0.5
        head.bias.data = torch.zeros(1)
        return cls(model.to(device).eval(), frozen, precision)

    @classmethod
    def load(
        cls, folder: str | Path, frozen: int, precision: Precision, device: torch.device
    ) -> "ScalarModel":
        """A reward model that stage ``reward`` saved, its bias in the head."""
        bias, model = reward_bias(folder), _load_scored(folder)
        _head(model).bias.data.fill_(bias)
        return cls(model.to(device).eval(), frozen, precision)

    @in_one_pass
    def values(self, batch: Padded, *, lower: Tensor | None = None) -> Tensor:
        """[B, T] in fp32: the scalar at every token."""
        hidden, head = self.stack.hidden(batch, lower).float(), self.head
        for layer in _between(self.model):
            hidden = layer(hidden)
        return nn.functional.linear(hidden, head.weight, head.bias)[..., 0]

    def scores(self, batch: Padded, *, lower: Tensor | None = None) -> Tensor:
        """[B] in fp32: the scalar at the last real token, whatever the padding."""
        return self.values(batch, lower=lower).gather(1, batch.last[:, None])[:, 0]

    def frozen_copy(self, *, apart: bool = False) -> "ScalarModel":
        """The same weights, to be left as they are. Unless apart frozen parts are shared."""
        twin = copy.copy(self)
        twin.model, twin.stack = self.stack.copied(self.model, apart=apart)
        if self.precision == "bf16":
            compact(twin.model.base_model)
        return twin


def reward_bias(folder: str | Path) -> float:
    """The bias of a reward model; ModelError if the folder is none of this trainer."""
    path = Path(folder) / BIAS
    if not path.is_file():
        raise ModelError(f"{folder} has no {BIAS}: it is not a reward model of this trainer.")
    return float(json.loads(path.read_text(encoding="utf-8"))["bias"])


def _load_scored(folder: str | Path) -> Any:
    """A classifier with one label, in fp32; its head has a bias, 0 if the format has none.

    Of whole sequences, or of tokens where the folder holds an encoder.
    """
    try:
        masked = _is_masked(AutoConfig.from_pretrained(str(folder)))
        kind = AutoModelForTokenClassification if masked else AutoModelForSequenceClassification
        model: Any = kind.from_pretrained(str(folder), num_labels=1, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} cannot be made a reward model: {error}") from None
    if masked:
        _head(model)
        return model
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ModelError(f"{type(model).__name__} has no linear head named score.")
    head = nn.Linear(model.score.in_features, 1)
    head.weight.data, head.bias.data = model.score.weight.data, torch.zeros(1)
    model.score = head
    return model


def _is_masked(config: Any) -> bool:
    """Whether an architecture is made for masked language modelling (BERT and its kin)."""
    kind = type(config)
    return kind in MODEL_FOR_MASKED_LM_MAPPING and kind in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING


def _set_pad(model: Any, pad_id: int) -> None:
    """Name the padding for whoever scores by the library; RoBERTa's own id places its positions."""
    if not _is_masked(model.config):
        model.config.pad_token_id = pad_id


def _head(model: Any) -> nn.Linear:
    """The linear layer that gives the scalar."""
    head = getattr(model, "score", None) or getattr(model, "classifier", None)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ModelError(f"{type(model).__name__} has no linear head with a bias.")
    return head


def _between(model: Any) -> list[nn.Module]:
    """What an architecture has between backbone and head (ModernBERT: a layer); no dropout."""
    ends = (model.base_model, _head(model))
    return [
        layer
        for layer in model.children()
        if not isinstance(layer, nn.Dropout) and not any(layer is end for end in ends)
    ]


# ---- weights in and out -------------------------------------------------------------------------


def trainable(model: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that is trained; a tied weight appears once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trained(model: LanguageModel | ScalarModel) -> dict[str, nn.Parameter]:
    """``trainable`` of one of the models on a backbone: only its own adapter is its to train."""
    return {
        name: p
        for name, p in trainable(model.model).items()
        if ".lora_" not in name or (model.adapter is not None and belongs(name, model.adapter))
    }


def equip(model: LanguageModel | ScalarModel, config: TrainConfig, name: str = ADAPTER) -> None:
    """Make a loaded model what the settings ask for: with LoRA adapters, recomputed, compiled,
    shared out over the processes.

    A scalar head is trained as it was before.
    """
    head = list(model.head.parameters()) if isinstance(model, ScalarModel) else []
    if config.lora_rank:
        model.adapter = name
        learns = [parameter.requires_grad for parameter in head]
        adapt(model.model, model.stack, config, name)
        for parameter, learn in zip(head, learns, strict=True):
            parameter.requires_grad_(learn)
    model.stack.equip(config)
    if wanted(config):
        if isinstance(model, LanguageModel):
            model.hollow = hollow(model.model)
        model.stack.share_out(model.model, pick_device())


def load_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put weights, by name, into a model in place: whole ones, or what ``held`` gave."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(like(tensor, own[name]))


def save_language_model(
    parent: str | Path,
    weights: Mapping[str, Tensor],
    dest: Path,
    config: TrainConfig | None = None,
) -> None:
    """The parent's folder with ``weights`` (by parameter name) in place of its own; with LoRA the
    adapter goes into a folder beside it, and its change into these weights.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(str(parent), dtype=torch.float32)
    load_weights(model, _whole(model, weights, dest, config, "CAUSAL_LM"))
    save_model_folder(model, parent, dest)


def _whole(
    model: Any, weights: Mapping[str, Tensor], dest: Path, config: TrainConfig | None, kind: str
) -> Mapping[str, Tensor]:
    """Weights of a model without adapters; the adapter, if there is one, is saved beside it."""
    if config is None or not config.lora_rank:
        return weights
    save_adapter(model, weights, dest.with_name(ADAPTER), config, kind)
    return merge(model, weights, config)


def save_reward_model(
    parent: str | Path,
    weights: Mapping[str, Tensor],
    dest: Path,
    *,
    bias: float,
    pad_id: int,
    config: TrainConfig | None = None,
) -> None:
    """A classification folder: the parent's backbone with ``weights`` in place, as above.

    The head of sequence classification has no bias, so ``bias`` stands in a file beside it; an
    encoder's head holds it too.
    """
    model = _load_scored(parent)
    _set_pad(model, pad_id)
    kind = "TOKEN_CLS" if _is_masked(model.config) else "SEQ_CLS"
    load_weights(model, _whole(model, weights, dest, config, kind))
    if hasattr(model, "score"):
        model.score.bias = None
    else:
        _head(model).bias.data.fill_(bias)
    save_model_folder(model, parent, dest)
    write_atomic(dest / BIAS, [json.dumps({"bias": bias}), "\n"])
