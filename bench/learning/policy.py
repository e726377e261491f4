"""The 13.8M model of the benchmarks, taught a little: pretrained on WikiText-2, then SFT.

Its tokenizer is a byte-level BPE of 8,192 tokens, learned on the same text. What is made here is
made once and kept; the last tenth of the text is for perplexity and never trained on.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from bench.common import build_model
from bench.data import write_snapshot
from bench.learning.units import Result, Unit, run_units
from bench.measure import stage
from trainer.records import UNLABELED, DemonstrationRow, Message, PromptRow, Split, write_atomic

VOCABULARY = 8192
SPECIAL = ("<|endoftext|>", "<|turn|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
LONGEST_ANSWER = 60  # words of a demonstration: longer ones never end within the answers drawn
LONGEST_PROMPT = 60  # words


@dataclass(frozen=True)
class Teaching:
    """How much the model is taught before PPO."""

    pretrain_epochs: int = 3
    """Passes over four fifths of WikiText-2 valid."""
    sft_epochs: int = 4
    window: int = 256
    """Tokens."""
    text_share: float = 1.0
    """Of the text, to make a small run of it."""


def teaching_of(sizes: Teaching) -> Teaching:
    """That part of a script's sizes: scripts with the same share a model."""
    return Teaching(**{field.name: getattr(sizes, field.name) for field in fields(Teaching)})


class Cast(NamedTuple):
    """The taught model and what goes with it."""

    model: Path
    train_text: Path
    test_text: Path
    prompts: Path  # snapshot: four fifths train, one fifth valid
    figures: Result
    """Of the teaching: ``valid_perplexity`` after pretraining, ``precision``, ``seconds``."""


def taught(data: Path, work: Path, teaching: Teaching, threads: int, model: Path | None) -> Cast:
    """The model, taught where it is not there yet; ``model`` stands in for it, as it is."""
    texts = cut_text(data / "wikitext-2" / "valid.txt", work, teaching.text_share)
    prompts = write_real_prompts(data, work / "prompts")
    if model is not None:
        return Cast(model, texts["train"], texts["test"], prompts, {})
    common = {"threads": threads, "checkpoint_every": 50, "seed": 0}

    def pretrain() -> Result:
        drawn = build_model(work / "drawn", 0, tokenizer=learn_tokenizer(texts["train"]))
        settings = {
            "model": str(drawn),
            "text": str(texts["train"]),
            "valid_text": str(texts["valid"]),
            "max_tokens": teaching.window,
            "valid_every": 50,
            "learning_rate": 1e-3,
            "batch": 8,
            "epochs": teaching.pretrain_epochs,
        }
        done = stage("pretrain", work / "pretrain", settings | common)
        return {
            "valid_perplexity": done.manifest["metrics"]["valid_perplexity"],
            "precision": done.manifest["settings"]["precision"],
        }

    def sft() -> Result:
        settings = {
            "model": str(work / "pretrain" / "model"),
            "demonstrations": str(write_short_demonstrations(data, work / "demonstrations")),
            "epochs": teaching.sft_epochs,
            "learning_rate": 3e-4,
            "batch": 16,
        }
        stage("sft", work / "sft", settings | common)
        return {}

    units = [Unit("pretrain", 600, pretrain), Unit("sft", 60, sft)]
    pretrained, tuned = run_units(work, units, asdict(teaching))
    figures = pretrained | {"seconds": pretrained["seconds"] + tuned["seconds"]}
    return Cast(work / "sft" / "model", texts["train"], texts["test"], prompts, figures)


# ---- text and tokenizer ---------------------------------------------------------------------------


def cut_text(source: Path, work: Path, share: float) -> dict[str, Path]:
    """The first four fifths of a text to learn from, a tenth to choose by, a tenth to test on."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = lines[: max(10, round(share * len(lines)))]
    ends = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
    found = {}
    for name, (start, stop) in ends.items():
        part = lines[round(start * len(lines)) : round(stop * len(lines))]
        found[name] = work / "text" / f"{name}.txt"
        write_atomic(found[name], part)
    return found


def learn_tokenizer(text: Path) -> Any:
    """A byte-level BPE with the benchmarks' control tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(text.read_text(encoding="utf-8").splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        additional_special_tokens=[SPECIAL[1]],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


# ---- snapshots ------------------------------------------------------------------------------------


def write_real_prompts(data: Path, folder: Path) -> Path:
    """Real users' prompts of at most ``LONGEST_PROMPT`` words; every fifth is held out."""
    source = data / "open-assistant" / "prompts_en_250.jsonl"
    texts = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    kept = [text for text in dict.fromkeys(texts) if len(text.split()) <= LONGEST_PROMPT]
    rows = [
        PromptRow(f"p{i}", (Message("user", text),), _split(i), "user", "other")
        for i, text in enumerate(kept)
    ]
    return write_snapshot(folder, "prompts", rows)


def prompts_for(reward: str, cast: Cast, data: Path, work: Path, toxic: int) -> Path:
    """What a known reward is to be earned on: real users' prompts where it is ``concise``, else
    ``toxic`` of RealToxicityPrompts.
    """
    if reward == "concise":
        return cast.prompts
    return write_toxic_prompts(data, work / f"toxic-{toxic}", toxic)


def write_toxic_prompts(data: Path, folder: Path, count: int) -> Path:
    """The first prompts of each attribute of RealToxicityPrompts, by turns."""
    files = sorted((data / "real-toxicity-prompts").glob("*.txt"))
    lists = [file.read_text(encoding="utf-8").splitlines() for file in files]
    texts = [text for turn in zip(*lists, strict=False) for text in turn if text.strip()]
    rows = [
        PromptRow(f"t{i}", (Message("user", text),), "train", "user", "other")
        for i, text in enumerate(texts[:count])
    ]
    return write_snapshot(folder, "prompts", rows)


def write_short_demonstrations(data: Path, folder: Path) -> Path:
    """The best short reply of each Open-Assistant conversation, and Self-Instruct's instances."""
    found = [*_best_replies(data), *_instances(data)]
    short = [
        (prompt, answer)
        for prompt, answer in found
        if 0 < len(answer.split()) <= LONGEST_ANSWER and len(prompt.split()) <= LONGEST_PROMPT
    ]
    rows = [
        DemonstrationRow(
            id=f"d{i}",
            prompt_id=f"p{i}",
            prompt=(Message("user", prompt),),
            completion=answer,
            split=_split(i),
            kind="user",
            use_case="other",
            source="upload",
            simulated=False,
            **UNLABELED,
        )
        for i, (prompt, answer) in enumerate(short)
    ]
    return write_snapshot(folder, "demonstrations", rows)


def _split(number: int) -> Split:
    return "valid" if number % 5 == 4 else "train"


def _best_replies(data: Path) -> list[tuple[str, str]]:
    source = data / "open-assistant" / "en_100_tree.jsonl"
    found = []
    for line in source.read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)["prompt"]
        ranked = [reply for reply in asked["replies"] if reply.get("rank") is not None]
        for reply in sorted(ranked, key=lambda reply: reply["rank"])[:2]:
            found.append((asked["text"], reply["text"]))
    return found


def _instances(data: Path) -> list[tuple[str, str]]:
    source = data / "self-instruct" / "seed_tasks.jsonl"
    found = []
    for line in source.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        for instance in task["instances"]:
            prompt = f"{task['instruction']}\n{instance['input']}".strip()
            found.append((prompt, instance["output"].strip()))
    return found
