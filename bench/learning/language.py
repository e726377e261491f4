"""What a model knows of language: perplexity of running text, and BLiMP's minimal pairs.

BLiMP (arXiv 1912.00582): a pair counts as right when the whole grammatical sentence is likelier.
"""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.learning.figures import Interval, over_items
from trainer.data import micro_batches
from trainer.models import LanguageModel
from trainer.padded import pad
from trainer.pretrain_text import TokenStream, Windows
from trainer.stack import pick_device
from trainer.text import Codec

MICRO_TOKENS = 8192


class MinimalPair(NamedTuple):
    """Two sentences of which the first is grammatical."""

    good: str
    bad: str


class Known(NamedTuple):
    """What was measured; both as lists, so that two models can be compared item by item."""

    nats: list[float]  # per predicted token, of each window of the text
    right: dict[
        str, list[float]
    ]  # by paradigm, of each pair: 1, 0, or one half where equally likely


def measure(
    folder: Path, text: Path, paradigms: Mapping[str, Sequence[MinimalPair]], window: int
) -> Known:
    """Both, of a model folder, in fp32."""
    codec = Codec.load(folder)
    model = LanguageModel.load(folder, 0, "fp32", pick_device())
    nats = window_losses(model, codec, text, window)
    return Known(nats, {name: choices(model, codec, pairs) for name, pairs in paradigms.items()})


def window_losses(model: LanguageModel, codec: Codec, text: Path, window: int) -> list[float]:
    """Mean loss in nats of the tokens of each window of ``window`` tokens, but for its first."""
    windows = Windows.of_text(TokenStream(text, codec, codec.start_ids), window)
    ids = [windows[i] for i in range(len(windows))]
    return [
        -total / (len(one) - 1) for total, one in zip(totals(model, codec, ids), ids, strict=True)
    ]


def choices(model: LanguageModel, codec: Codec, pairs: Sequence[MinimalPair]) -> list[float]:
    """Whether the model finds each good sentence likelier than the bad one."""
    ids = [[*codec.start_ids, *codec.encode_text(s)] for pair in pairs for s in pair]
    found = totals(model, codec, ids)
    return [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for good, bad in zip(found[::2], found[1::2], strict=True)
    ]


@torch.no_grad()
def totals(model: LanguageModel, codec: Codec, ids: Sequence[list[int]]) -> list[float]:
    """Log-probability in nats of each sequence, given its first token."""
    found = [0.0] * len(ids)
    for rows in micro_batches([len(one) for one in ids], MICRO_TOKENS):
        batch = pad([ids[i] for i in rows], codec.pad_id, model.stack.device)
        asked = batch.mask.clone()
        asked[:, 0] = False
        flat = model.logprobs(batch, asked).float()
        whole = torch.zeros(asked.shape, device=flat.device).masked_scatter(asked, flat)
        for row, total in zip(rows, whole.double().sum(1).tolist(), strict=True):
            found[row] = total
    return found


def read_blimp(archive: Path, pairs: int) -> dict[str, list[MinimalPair]]:
    """The first ``pairs`` of each of the 67 paradigms."""
    found = {}
    with zipfile.ZipFile(archive) as zipped:
        for name in sorted(zipped.namelist()):
            if name.startswith("__MACOSX") or not name.endswith(".jsonl"):
                continue
            lines = zipped.read(name).decode("utf-8").splitlines()[:pairs]
            rows = [json.loads(line) for line in lines]
            kept = [MinimalPair(row["sentence_good"], row["sentence_bad"]) for row in rows]
            found[Path(name).stem] = kept
    return found


# ---- figures --------------------------------------------------------------------------------------


def flat(known: Known) -> list[float]:
    """Of all paradigms, in the order of their names; all have the same number of pairs."""
    return [one for name in sorted(known.right) for one in known.right[name]]


def summary(known: Known) -> dict[str, Any]:
    """Perplexity and BLiMP accuracy with bootstrap intervals over windows and over pairs."""
    loss = over_items(known.nats)
    low, high = (None if bound is None else math.exp(bound) for bound in (loss.low, loss.high))
    perplexity = Interval(math.exp(loss.value), low, high, loss.n)
    return {"perplexity": perplexity.plain(), "blimp": over_items(flat(known)).plain()}


def change(before: Known, after: Known) -> dict[str, Any]:
    """``nats`` per token lost and ``blimp`` accuracy won, item by item, with bootstrap intervals."""
    nats = [new - old for old, new in zip(before.nats, after.nats, strict=True)]
    right = [new - old for old, new in zip(flat(before), flat(after), strict=True)]
    return {"nats": over_items(nats).plain(), "blimp": over_items(right).plain()}
