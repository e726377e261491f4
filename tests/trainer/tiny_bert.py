"""Tiny masked language models with a WordPiece tokenizer: what an encoder as reward model is made of."""

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests.trainer.tiny import TEXT

Encoder = Literal["bert", "distilbert", "roberta", "modernbert"]
POSITIONS = 256


def build_wordpiece() -> PreTrainedTokenizerFast:
    """384 tokens; [CLS] before a text and [SEP] after it, and no end token."""
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(
        [TEXT],
        trainers.WordPieceTrainer(
            vocab_size=384, special_tokens=list(names.values()), show_progress=False
        ),
    )
    ends = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def build_encoder(
    folder: Path, arch: Encoder = "bert", seed: int = 0, tokenizer: Any = None
) -> Path:
    """Write a masked language model of two blocks with dropout; ``tokenizer`` may be another's."""
    tokenizer = tokenizer or build_wordpiece()
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
