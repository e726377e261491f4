"""Floating-point operations that a stage cannot do without, for a Llama-like model.

A multiply and an add are two. Counted: the matrix products of real tokens, attention over the
tokens that may be seen, the output layer where a token is asked about; a backward pass is twice
its forward pass. Not counted: padding, what is computed again, norms, softmax, and the optimiser.
So the share of the machine's peak that this gives is of useful work.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

TRAINED = 3  # a forward and a backward pass


class Shape(NamedTuple):
    """Sizes of a decoder with gated MLPs."""

    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    queries: int  # width of all heads' queries
    keys: int  # width of all heads' keys, which is that of their values

    @classmethod
    def of(cls, folder: Path) -> "Shape":
        """The sizes of a model folder; SystemExit if its kind is not counted here."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            head = config.get("head_dim") or hidden // heads
            return cls(
                config["num_hidden_layers"],
                hidden,
                config["intermediate_size"],
                config["vocab_size"],
                heads * head,
                config.get("num_key_value_heads", heads) * head,
            )
        except KeyError as missing:
            raise SystemExit(
                f"{folder} has no {missing} in its config.json: name a Llama-like model."
            ) from None

    @property
    def matrices(self) -> int:
        """Weights of the blocks that every token is multiplied with."""
        attention = self.hidden * (2 * self.queries + 2 * self.keys)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    def blocks(self, tokens: int, seen: int = 0) -> int:
        """A forward pass of ``tokens`` after ``seen`` others, each seeing itself and those before."""
        pairs = tokens * seen + tokens * (tokens + 1) // 2
        return 2 * tokens * self.matrices + 4 * self.layers * self.queries * pairs

    def logits(self, states: int) -> int:
        """The output layer at so many tokens."""
        return 2 * states * self.hidden * self.vocabulary


def sft(shape: Shape, prompt: int, completion: int) -> int:
    """One example."""
    return TRAINED * (shape.blocks(prompt + completion) + shape.logits(completion))


def ranking(shape: Shape, prompt: int, answers: Sequence[int]) -> int:
    """One ranking, its prompt run once; ``answers`` are their lengths."""
    ends = sum(shape.blocks(answer, seen=prompt) for answer in answers)
    return TRAINED * (shape.blocks(prompt) + ends)


def sampled(shape: Shape, prompt: int, answers: Sequence[int]) -> int:
    """Drawing answers of these lengths to one prompt, which is run once."""
    ends = sum(shape.blocks(n - 1, seen=prompt) + shape.logits(n - 1) for n in answers)
    return shape.blocks(prompt) + shape.logits(1) + ends


def episode(shape: Shape, prompt: int, answer: int, epochs: int) -> int:
    """One episode of PPO: drawn, scored by four models of this shape, learned from ``epochs`` times.

    Policy and reference give log-probabilities; value and reward model have no output layer.
    """
    whole, asked = shape.blocks(prompt + answer), shape.logits(answer)
    scored = 4 * whole + 2 * asked
    return sampled(shape, prompt, [answer]) + scored + epochs * TRAINED * (2 * whole + asked)
