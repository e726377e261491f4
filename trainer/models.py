"""Policy, reward model and value model: what the algorithms ask of a language model.

Logits are made only at states whose next token is asked about, a few rows at a time. The reward
model is kept in Hugging Face's sequence-classification format with its bias beside it; one made
from a masked language model, whose sequence classifiers differ, in the token-classification
format. Loading leaves every dropout off; only SFT turns it on.
"""

import copy
import json
from collections.abc import Iterator, Mapping
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

from trainer.config import Precision
from trainer.errors import ModelError
from trainer.frozen import FrozenStates
from trainer.records import write_atomic
from trainer.stack import Padded, Stack, compact
from trainer.stage_io import save_model_folder

LOGIT_ROWS = 128  # rows of logits made at once: 128 x 49,152 in fp32 is 25 MB
BIAS = "reward_bias.json"


# ---- log-probabilities ------------------------------------------------------------------------


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias) at the targets, a few rows of logits at a time.

    The logits are made again in the backward pass rather than kept: what they would take is
    rows x vocabulary x 4 bytes. Matrix products are in ``dtype``, all else in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            low, matrix = hidden.detach().to(dtype), weight.detach().to(dtype)
            chunks = [
                _log_softmax(low[rows], matrix, bias, temperature).gather(1, targets[rows, None])
                for rows in _chunks(len(low))
            ]
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.matrix, ctx.temperature, ctx.dtype = matrix, temperature, dtype
        return torch.cat(chunks)[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden)):
                low = hidden[rows].to(ctx.dtype)
                scale = grads[0][rows, None] / ctx.temperature
                slope = _log_softmax(low, ctx.matrix, bias, ctx.temperature).exp_().mul_(-scale)
                slope.scatter_add_(1, targets[rows, None], scale)
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
                slope = slope.to(ctx.dtype)
                grad_hidden[rows] = (slope @ ctx.matrix).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += slope.T @ low
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(i, i + LOGIT_ROWS) for i in range(0, rows, LOGIT_ROWS))


def _log_softmax(hidden: Tensor, matrix: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[rows, vocabulary] in fp32."""
    logits = hidden @ matrix.T
    if bias is not None:
        logits = logits.float() + bias.detach().float()
    if temperature != 1:
        logits = logits.float() / temperature
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


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
    """A causal language model: the policy, its reference, or the model SFT trains."""

    def __init__(self, model: Any, frozen: int, precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.stack = Stack(model.base_model, frozen, precision)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._odd = _has_odd_logits(model)

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
        hidden = self._choosing(batch, response, lower)
        if self._odd:
            logs = torch.log_softmax(self._odd_logits(hidden) / temperature, dim=-1)
            return logs.gather(1, batch.ids[response][:, None])[:, 0]
        head = self.model.get_output_embeddings()
        return _TokenLogprobs.apply(  # type: ignore[no-any-return, no-untyped-call]
            hidden, head.weight, head.bias, batch.ids[response], temperature, self.dtype
        )

    @torch.no_grad()
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
            for rows in _chunks(len(hidden)):
                if matrix is None:
                    logs = torch.log_softmax(self._odd_logits(hidden[rows]) / temperature, dim=-1)
                else:
                    logs = _log_softmax(hidden[rows].to(self.dtype), matrix, head.bias, temperature)
                entropy = -(logs.exp() * logs).sum(1)
                found.append((logs.gather(1, targets[rows, None])[:, 0], entropy))
        return Choices(*(torch.cat(part) for part in zip(*found, strict=True)))

    def frozen_copy(self) -> "LanguageModel":
        """The same weights, to be left as they are: the reference. Frozen parts are shared."""
        twin = copy.copy(self)
        twin.model, twin.stack = self.stack.copied(self.model)
        if self.precision == "bf16":
            compact(twin.model.base_model)
        return twin

    def _choosing(self, batch: Padded, response: Tensor, lower: Tensor | None) -> Tensor:
        """Final hidden states [N, H] of the states in which the response tokens were chosen."""
        return self.stack.hidden(batch, lower)[states_before(batch, response)]

    def _odd_logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, vocabulary] in fp32 of a model that does more than one matrix product."""
        config = self.model.config.get_text_config()
        logits = self.model.get_output_embeddings()(hidden.float()).float()
        logits = logits * getattr(config, "logit_scale", 1.0)
        logits = logits / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)


def _has_odd_logits(model: Any) -> bool:
    config = model.config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(config, name, None) not in (None, 1, 1.0) for name in names)


class ScalarModel:
    """A backbone with one scalar at every token: the reward model, and the value model.

    The backbone may be an encoder, which only a reward model should be: its tokens see those
    after them.
    """

    def __init__(self, model: Any, frozen: int, precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.stack = Stack(model.base_model, frozen, precision)
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
        path = Path(folder) / BIAS
        if not path.is_file():
            raise ModelError(f"{folder} has no {BIAS}: it is not a reward model of this trainer.")
        model = _load_scored(folder)
        _head(model).bias.data.fill_(json.loads(path.read_text(encoding="utf-8"))["bias"])
        return cls(model.to(device).eval(), frozen, precision)

    def values(self, batch: Padded, *, lower: Tensor | None = None) -> Tensor:
        """[B, T] in fp32: the scalar at every token."""
        hidden, head = self.stack.hidden(batch, lower).float(), self.head
        for layer in _between(self.model):
            hidden = layer(hidden)
        return nn.functional.linear(hidden, head.weight, head.bias)[..., 0]

    def scores(self, batch: Padded, *, lower: Tensor | None = None) -> Tensor:
        """[B] in fp32: the scalar at the last real token, whatever the padding."""
        return self.values(batch, lower=lower).gather(1, batch.last[:, None])[:, 0]

    def frozen_copy(self) -> "ScalarModel":
        """The same weights, to be left as they are. Frozen parts are shared."""
        twin = copy.copy(self)
        twin.model, twin.stack = self.stack.copied(self.model)
        if self.precision == "bf16":
            compact(twin.model.base_model)
        return twin


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


def load_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put weights, by name, into a model in place."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def save_language_model(parent: str | Path, weights: Mapping[str, Tensor], dest: Path) -> None:
    """The parent's folder with ``weights`` (by parameter name) in place of its own."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(parent), dtype=torch.float32)
    load_weights(model, weights)
    save_model_folder(model, parent, dest)


def save_reward_model(
    parent: str | Path, weights: Mapping[str, Tensor], dest: Path, *, bias: float, pad_id: int
) -> None:
    """A classification folder: the parent's backbone with ``weights`` in place.

    The head of sequence classification has no bias, so ``bias`` stands in a file beside it; an
    encoder's head holds it too.
    """
    model = _load_scored(parent)
    _set_pad(model, pad_id)
    load_weights(model, weights)
    if hasattr(model, "score"):
        model.score.bias = None
    else:
        _head(model).bias.data.fill_(bias)
    save_model_folder(model, parent, dest)
    write_atomic(dest / BIAS, [json.dumps({"bias": bias}), "\n"])


def sampler_of(policy: LanguageModel) -> Any:
    """A copy of the policy to sample with: bf16 weights, or the policy itself in fp32."""
    if policy.precision == "fp32":
        return policy.model
    return copy.deepcopy(policy.model).bfloat16().requires_grad_(False)
