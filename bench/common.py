"""The command line that the benchmarks share, and the model they use where none is named."""

import argparse
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from bench.measure import ROOT

WORDS = ("<|endoftext|>", "<|turn|>", "<|end|>", "<|unk|>", "user", "assistant", "system")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|turn|> ' + message['role'] + ' ' + message['content'] + ' <|end|> ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|> assistant ' }}{% endif %}"
)
_LAYERS, _HIDDEN, _MLP, _HEADS, _VOCABULARY = 6, 384, 1024, 6, 8192


def parser(doc: str, repetitions: int) -> argparse.ArgumentParser:
    """Options of every benchmark; ``repetitions`` is the default of those that are timed."""
    found = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = found.add_argument
    add("--model", type=Path, help="a model folder; none draws the small Llama on the spot")
    add("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    add("--repetitions", type=int, default=repetitions, help="timed ones, after one left out")
    add("--threads", type=int, default=0, help="of both sides; 0 leaves the default")
    add("--seed", type=int, default=0)
    add("--set", nargs="+", default=[], metavar="NAME=JSON", help="more settings of our stage")
    add("--no-peer", action="store_true", help="measure ours alone")
    add("--peer-precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    add("--peer-compile", action="store_true", help="the peer by torch.compile (SFT, reward)")
    add("--json", type=Path, help="write the figures there too")
    add("--profile", type=Path, help="write torch's profile of a short run of ours there, too")
    add("--work", type=Path, default=ROOT / "var" / "bench", help="folder for what is made")
    return found


def more_settings(pairs: list[str]) -> dict[str, Any]:
    """``NAME=JSON`` options as settings; SystemExit if one is not that."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            equals = ""
        if not equals:
            raise SystemExit(f"--set {pair}: write NAME=JSON, for instance micro_tokens=8192.")
    return found


def fresh_work(args: argparse.Namespace, name: str) -> Path:
    """An empty folder for one benchmark's runs."""
    folder: Path = args.work.resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# ---- the model -----------------------------------------------------------------------------------


def policy_of(args: argparse.Namespace, work: Path, end_share: float = 0.0) -> Path:
    """The named model, or a new one; see ``build_model``."""
    if args.model is not None:
        named: Path = args.model.resolve()
        if not (named / "config.json").is_file():
            raise SystemExit(f"{named} has no config.json: name a folder in Hugging Face format.")
        return named
    return build_model(work / "policy", args.seed, end_share)


def build_model(dest: Path, seed: int, end_share: float = 0.0, *, tokenizer: Any = None) -> Path:
    """A Llama of 13.8 million random weights and a tokenizer, none being that of one token a word.

    ``end_share`` of its vocabulary ends an answer, beside the end token: as random weights choose
    all tokens about equally, that is the chance of an end at every token.
    """
    import torch  # here and below: what only prints needs none of it
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer or build_tokenizer()
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=_HIDDEN,
            intermediate_size=_MLP,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            **ids,
        )
    )
    ends = range(_VOCABULARY - round(end_share * _VOCABULARY), _VOCABULARY)
    ids["eos_token_id"] = [tokenizer.eos_token_id, *ends]
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(dest)
    tokenizer.save_pretrained(dest)
    return dest


def build_tokenizer() -> Any:
    """8,192 words of two and three syllables, a token each, and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    made = ("".join(parts) for count in (2, 3) for parts in product(syllables, repeat=count))
    words = [
        *WORDS,
        *(word for word, _ in zip(made, range(_VOCABULARY - len(WORDS)), strict=False)),
    ]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=WORDS[3]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=WORDS[0],
        pad_token=WORDS[0],
        eos_token=WORDS[2],
        unk_token=WORDS[3],
        additional_special_tokens=[WORDS[1]],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_reward_model(policy: Path, dest: Path, seed: int) -> Path:
    """The policy's backbone under a random head, as stage ``reward`` saves it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        policy, num_labels=1, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(dest)
    tokenizer.save_pretrained(dest)
    (dest / "reward_bias.json").write_text('{"bias": 0.0}\n', encoding="utf-8")
    return dest
