"""Tiny masked language models with a WordPiece tokenizer: what an encoder as reward model is made of."""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests.trainer.tiny import word_pieces

Encoder = Literal["bert", "distilbert", "roberta", "modernbert"]
POSITIONS = 256


def build_encoder(
    folder: Path, arch: Encoder = "bert", seed: int = 0, tokenizer: Any = None
) -> Path:
    """Write a masked language model of two blocks with dropout; ``tokenizer`` may be another's."""
    tokenizer = tokenizer or word_pieces()
    pad = tokenizer.pad_token_id
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "initializer_range": 0.15,
        "pad_token_id": pad if arch != "roberta" else 1,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any
        if arch == "bert":
            model = BertForMaskedLM(
                BertConfig(max_position_embeddings=POSITIONS, **sizes, **shared)
            )
        elif arch == "roberta":  # positions begin after the padding id, 1
            model = RobertaForMaskedLM(
                RobertaConfig(max_position_embeddings=POSITIONS + 2, **sizes, **shared)
            )
        elif arch == "modernbert":
            model = ModernBertForMaskedLM(
                ModernBertConfig(max_position_embeddings=POSITIONS, **sizes, **shared)
            )
        else:
            model = DistilBertForMaskedLM(
                DistilBertConfig(
                    dim=48,
                    hidden_dim=96,
                    n_layers=2,
                    n_heads=4,
                    max_position_embeddings=POSITIONS,
                    **shared,
                )
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
