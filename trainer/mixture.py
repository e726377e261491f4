"""What SFT learns from: one set of demonstrations, or several mixed by weight.

Instruction collections are mixed in as in FLAN (arXiv 2109.01652): each set has a weight, and may
have a cap on how many of its examples are used. An epoch is one pass over the first set, with the
others drawn in proportion, or a stated number of examples. Windows of running text may be a share
of the examples, as where PPO's policy is to start (InstructGPT, C.4). Which examples an epoch
holds, and in what order, is a function of the seed and the epoch alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trainer.config import SFTConfig
from trainer.data import Example, Splits, epoch_batches, load_demonstrations, shuffled
from trainer.errors import ConfigError
from trainer.pretrain_text import PretrainText
from trainer.records import Parent
from trainer.stage_io import parent_of
from trainer.text import Codec

Item = TypeVar("Item")


class Source(NamedTuple):
    """One set of demonstrations, or the running text."""

    name: str
    weight: float  # share of draws relative to the other sets; of text its share of all examples
    data: Splits[Example]  # train is cut to the cap


class Mixture:
    """The examples of every epoch, and those that are held out."""

    def __init__(
        self,
        sources: Sequence[Source],
        batch: int,
        seed: int,
        examples: int | None = None,
        text: Callable[[int], Source] | None = None,
    ) -> None:
        """``text`` gives the running text, told how many demonstrations an epoch has."""
        self.demonstrations, self.batch, self.seed = list(sources), batch, seed
        weights = [source.weight for source in sources]
        if examples is None:
            self.counts = in_proportion(len(sources[0].data.train), weights)
        else:
            self.counts = shares(examples, weights)
        held_out = in_proportion(len(sources[0].data.valid), weights)
        self.valid = taken_first([source.data.valid for source in sources], held_out)
        self.sources = list(sources)
        if text is not None:
            self.sources.append(text(self.size))
            self.counts.append(beside(self.size, self.sources[-1].weight))
        self._epoch = -1  # whose batches these are
        self._batches: list[list[Example]] = []

    @property
    def size(self) -> int:
        """Examples in an epoch."""
        return sum(self.counts)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-self.size // self.batch)

    def epoch(self, number: int) -> list[Example]:
        """The examples of an epoch, set by set."""
        return [
            source.data.train[i]
            for place, (source, count) in enumerate(zip(self.sources, self.counts, strict=True))
            for i in drawn(len(source.data.train), count, number, self.seed, place)
        ]

    def at(self, step: int) -> list[Example]:
        """The batch of an optimiser step, 0 being the first of the run."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            items, self._epoch = self.epoch(epoch), epoch
            plan = epoch_batches(len(items), self.batch, self.seed, epoch)
            self._batches = [[items[i] for i in rows] for rows in plan]
        return self._batches[place]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, of which set."""
        if len(self.sources) == 1:
            return self.sources[0].data.notes
        return tuple(f"{s.name}: {note}" for s in self.sources for note in s.data.notes)

    def taken(self, epochs: int) -> list[dict[str, Any]]:
        """For the manifest: of each set its weight, how many examples it has, and gave."""
        return [
            {
                "name": source.name,
                "weight": source.weight,
                "examples": len(source.data.train),
                "per_epoch": count,
                "taken": count * epochs,
            }
            for source, count in zip(self.sources, self.counts, strict=True)
        ]


def source_parents(config: SFTConfig) -> tuple[Parent, ...]:
    """The snapshots that are mixed, every file verified, in the order of the settings."""
    if not config.sources:
        raise ConfigError(
            "There is nothing to learn from: name a snapshot folder in demonstrations, or several"
            " in mixture."
        )
    return tuple(parent_of("demonstrations", source.demonstrations) for source in config.sources)


def load_mixture(config: SFTConfig, codec: Codec, parents: Sequence[Parent]) -> Mixture:
    """All sets of the settings as token ids; ``parents`` as ``source_parents`` gave them."""
    found = []
    for place, (source, parent) in enumerate(zip(config.sources, parents, strict=True)):
        data = load_demonstrations(
            source.demonstrations, codec, config.max_tokens, train_on=config.train_on
        )
        if source.cap is not None and source.cap < len(data.train):
            kept = sorted(shuffled(len(data.train), config.seed, place)[: source.cap])
            data = data._replace(train=[data.train[i] for i in kept])
        found.append(Source(parent.name, source.weight, data))
    text = None if config.pretrain_text is None else partial(_running_text, config, codec)
    return Mixture(found, config.batch, config.seed, config.epoch_examples, text)


def _running_text(config: SFTConfig, codec: Codec, demonstrations: int) -> Source:
    """Windows of the text as examples whose every token but the first is learned."""
    path, share = str(config.pretrain_text), config.pretrain_share
    wanted = config.epochs * beside(demonstrations, share)
    text = PretrainText(path, codec, config.pretrain_tokens, wanted, config.seed)
    windows = [Example(ids[:1], ids[1:]) for ids in text.take(0, len(text.windows))]
    return Source(Path(path).name, share, Splits(windows, [], text.notes))


# ---- how many, and which ------------------------------------------------------------------------


def beside(demonstrations: int, share: float) -> int:
    """How many windows of text, at least one, are such a share of all beside the demonstrations."""
    return max(1, round(demonstrations * share / (1 - share)))


def in_proportion(first: int, weights: Sequence[float]) -> list[int]:
    """How many of each set go with all ``first`` of the first one; at least 1 with at least 1."""
    return [max(min(first, 1), round(first * weight / weights[0])) for weight in weights]


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` cut in proportion to the weights; what rounding leaves goes to the largest rests."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    rests = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in rests[: total - sum(counts)]:
        counts[i] += 1
    return counts


def drawn(size: int, count: int, epoch: int, *key: int) -> list[int]:
    """The epoch's ``count`` of ``size`` items: shuffled passes over all, one after the other.

    No item comes a second time before each came once. A whole pass is left in order.
    """
    if count == size:
        return list(range(size))
    places = range(epoch * count, (epoch + 1) * count)
    orders = {number: shuffled(size, *key, number) for number in {p // size for p in places}}
    return [orders[p // size][p % size] for p in places]


def taken_first(lists: Sequence[Sequence[Item]], counts: Sequence[int]) -> list[Item]:
    """The first few of each list, one list after the other."""
    return [item for items, count in zip(lists, counts, strict=True) for item in items[:count]]
