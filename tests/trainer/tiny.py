"""Tiny models built on the spot: a Llama (rotary positions, chat template), a GPT-2 (absolute
positions, no chat template) and a BERT (masked, seen from both sides), each with a tokenizer of
its own.

As a script: ``python -m tests.trainer.tiny --arch llama --out DIR``.
"""

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

Arch = Literal["llama", "gpt2", "bert"]

TEXT = """\
The harbour was quiet before the boats came in. A small dog slept near the nets, and two
children counted the gulls on the wall. When the first boat turned around the light, their
mother put down her cup and walked to the steps. "How many fish today?" she asked. "Enough for
us and the neighbours," her brother said, and he laughed. They cleaned the fish, washed the
stones with sea water, and carried the baskets home. In the evening they wrote a list of what
to buy: bread, salt, onions, a new rope, and paper for letters. Please write a short answer in
plain words. What is the best way to learn a language? Read a little every day, speak often,
and do not be afraid of mistakes. Explain why the sky is blue. Light from the sun is scattered
by the air, and blue light is scattered the most. User: Assistant: System: user assistant
system You are a helpful assistant. 0 1 2 3 4 5 6 7 8 9
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def build_tokenizer(arch: Arch) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens; on Llama pad and end are the same id, as in SmolLM2.

    BERT's is word pieces in lower case.
    """
    if arch == "bert":
        return word_pieces()
    special = ["<|endoftext|>", "<|turn|>", "<|end|>"] if arch == "llama" else ["<|endoftext|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT], trainer)
    names: dict[str, Any] = {"eos_token": special[-1], "bos_token": "<|endoftext|>"}
    if arch == "llama":
        names |= {"pad_token": "<|end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    if arch == "llama":
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def word_pieces() -> PreTrainedTokenizerFast:
    """WordPiece, 384 tokens: [CLS] before a text, [SEP] after it, a mask, and no end token.

    The library's trainer breaks ties as its hash order has it, another in every process. Here
    the vocabulary is every character, alone and inside a word, the commonest pairs inside a
    word, and the commonest words.
    """
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    words = re.findall(r"\w\w+", TEXT.lower())
    letters = sorted(set(TEXT.lower()) - set(" \n"))
    pairs = Counter(word[i : i + 2] for word in words for i in range(1, len(word) - 1))
    parts = [*letters, *(pair for pair, _ in sorted(pairs.items(), key=_commonest)[:150])]
    whole = [word for word, _ in sorted(Counter(words).items(), key=_commonest)]
    tokens = [*names.values(), *letters, *(f"##{part}" for part in parts), *whole]
    core = Tokenizer(
        models.WordPiece({t: i for i, t in enumerate(tokens[:384])}, unk_token="[UNK]")
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(t, core.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def _commonest(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]


def build_tiny(folder: str | Path, arch: Arch, seed: int = 0) -> Path:
    """Write a model folder in Hugging Face format: about 60,000 parameters, 256 positions.

    The weights are drawn wide enough that sampling is neither uniform nor fixed.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer(arch)
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.15,
    }
    model: LlamaForCausalLM | GPT2LMHeadModel | BertForMaskedLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if arch == "llama":
            model = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=48,
                    intermediate_size=96,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=256,
                    tie_word_embeddings=True,
                    pad_token_id=tokenizer.pad_token_id,
                    **shared,
                )
            )
        elif arch == "bert":
            model = BertForMaskedLM(
                BertConfig(
                    hidden_size=48,
                    intermediate_size=96,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=256,
                    pad_token_id=tokenizer.pad_token_id,
                    **shared,
                )
            )
        else:
            model = GPT2LMHeadModel(
                GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=256, **shared)
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=get_args(Arch), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(build_tiny(args.out, args.arch, args.seed))


if __name__ == "__main__":
    main()
