"""``python -m trainer fill``: what a model would put at each mask, or next.

A masked model is asked about every mask of the text by itself, all of them being hidden; a causal
one about the token that follows the text. Probabilities are those of the model at temperature 1.
"""

import inspect
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
)

from trainer.config import ObjectiveName
from trainer.errors import ConfigError, DataError, ModelError
from trainer.objectives import MaskedModel, load_model, positions_of
from trainer.padded import Padded
from trainer.stack import pick_device
from trainer.text import Codec

MASK = "[MASK]"


class Candidate(NamedTuple):
    """A token that may stand at a place."""

    token: str
    id: int
    probability: float


class Filled(NamedTuple):
    """What a model says of a text; of a causal model there is one place, the next token."""

    kind: ObjectiveName
    text: str
    places: list[list[Candidate]]  # best first


def run(folder: str, text: str, top: int, *, as_json: bool) -> None:
    """Print the ``top`` candidates of each place, as a table or as one JSON object."""
    filled = fill(folder, text, top)
    if as_json:
        places = [[candidate._asdict() for candidate in place] for place in filled.places]
        print(json.dumps({"model": folder, **filled._asdict(), "places": places}))
    else:
        print(table(filled))


def fill(folder: str | Path, text: str, top: int) -> Filled:
    """The ``top`` candidates of each mask, or of the next token.

    ConfigError if the text has no mask for a masked model, or one for a causal model; ModelError
    if the folder holds neither kind.
    """
    if top < 1:
        raise ConfigError(f"top is {top}; it must be above 0.")
    kind = kind_of(folder)
    codec = Codec.load(folder)
    logits = _mask_logits(folder, codec, text) if kind == "masked" else _next(folder, codec, text)
    best = torch.softmax(logits.float(), dim=-1).topk(min(top, logits.shape[-1]))
    return Filled(
        kind,
        text,
        [
            [
                Candidate(_shown(codec.tokenizer, token), token, probability)
                for token, probability in zip(ids, probabilities, strict=True)
            ]
            for ids, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
    )


def kind_of(folder: str | Path) -> ObjectiveName:
    """Whether a folder holds a causal or a masked model, by the architecture it names."""
    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder} is no model folder (that of a run is its folder model/): {error}"
        ) from None
    (name,) = (getattr(config, "architectures", None) or [""])[:1]
    pretraining = MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(config.model_type)
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(config.model_type)
    if name and name in (masked, pretraining) and masked and name not in _causal_names():
        return "masked"
    if name in _causal_names():
        return "causal"
    raise ModelError(
        f"{folder} holds a {name or 'model that names no architecture'}; candidates are shown for"
        " causal and for masked language models."
    )


def _causal_names() -> set[str]:
    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


@torch.no_grad()
def _mask_logits(folder: str | Path, codec: Codec, text: str) -> Tensor:
    """[masks, vocabulary]."""
    tokenizer = codec.tokenizer
    if tokenizer.mask_token is None:
        raise ModelError(f"The tokenizer of {folder} has no mask token.")
    if MASK not in text and tokenizer.mask_token not in text:
        raise ConfigError(f"The text has no mask: put {MASK} where a word is missing.")
    ids = tokenizer(text.replace(MASK, tokenizer.mask_token))["input_ids"]
    device = pick_device()
    model = MaskedModel(load_model(folder, "masked").to(device), "fp32")
    _check_length(ids, model.model)
    batch = torch.tensor([ids], device=device)
    asked = batch == tokenizer.mask_token_id
    return model.logits(Padded(batch, torch.ones_like(asked)), asked)


@torch.no_grad()
def _next(folder: str | Path, codec: Codec, text: str) -> Tensor:
    """[1, vocabulary]."""
    if MASK in text:
        raise ConfigError(
            f"{folder} holds a causal model, which knows no mask: leave {MASK} out, and see which"
            " token would follow the text."
        )
    ids = codec.tokenizer(text)["input_ids"] or list(codec.start_ids)
    if not ids:
        raise ConfigError("The text is empty: write what the next token is to follow.")
    device = pick_device()
    model = load_model(folder, "causal").to(device)
    _check_length(ids, model)
    last = "logits_to_keep" in inspect.signature(model.forward).parameters
    kept: dict[str, Any] = {"logits_to_keep": 1} if last else {}
    logits = model(input_ids=torch.tensor([ids], device=device), **kept).logits
    return logits[:, -1]  # type: ignore[no-any-return]


def _check_length(ids: list[int], model: Any) -> None:
    room = positions_of(model)
    if room is not None and len(ids) > room:
        raise DataError(f"The text has {len(ids)} tokens, the model {room} positions: shorten it.")


def _shown(tokenizer: Any, token: int) -> str:
    """A token's text; as the vocabulary spells it where it is only part of a character."""
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text or not text else text


def table(filled: Filled) -> str:
    """Candidates for a person to read; quotes show where a token begins with a space."""
    lines = [f"text: {filled.text}"]
    for number, place in enumerate(filled.places, 1):
        if filled.kind == "masked":
            lines += ["", f"mask {number} of {len(filled.places)}"]
        else:
            lines += ["", "next token"]
        shown = [json.dumps(candidate.token, ensure_ascii=False) for candidate in place]
        width = max(map(len, shown))
        lines += [
            f"{rank:4}  {token:{width}}  {candidate.probability:9.4%}  id {candidate.id}"
            for rank, (token, candidate) in enumerate(zip(shown, place, strict=True), 1)
        ]
    return "\n".join(lines)
