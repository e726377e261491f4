"""A folder laid out as that of the public data sets, with a little text of our own in it."""

import gzip
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from tests.trainer.snapshots import SENTENCES


def write_public_data(folder: Path) -> Path:
    """Thirty pairs, twelve trees, prompts, tasks, minimal pairs and running text."""
    draw = random.Random(0)
    trees = [json.dumps(_tree(i, draw)) for i in range(12)]
    _write(folder / "open-assistant" / "en_100_tree.jsonl", trees)
    prompts = [json.dumps(f"{_words(draw, 4)}?") for _ in range(20)]
    _write(folder / "open-assistant" / "prompts_en_250.jsonl", prompts)
    tasks = [
        {"instruction": _words(draw, 5), "instances": [{"input": "", "output": _words(draw, 6)}]}
        for _ in range(20)
    ]
    _write(folder / "self-instruct" / "seed_tasks.jsonl", map(json.dumps, tasks))
    text = [f"{_words(draw, 30)} .\n" for _ in range(400)]
    _write(folder / "wikitext-2" / "valid.txt", text, end="")
    for name in ("insult", "threat"):
        lines = [_words(draw, 6) for _ in range(5)]
        _write(folder / "real-toxicity-prompts" / f"{name}.txt", lines)
    _write_pairs(folder / "hh-rlhf" / "harmless.jsonl.gz", draw)
    (folder / "blimp").mkdir()
    with zipfile.ZipFile(folder / "blimp" / "BLiMP.zip", "w") as archive:
        for name in ("one", "two"):
            row = {"sentence_good": _words(draw, 5), "sentence_bad": _words(draw, 5)}
            archive.writestr(f"data/{name}.jsonl", json.dumps(row))
    return folder


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(" ".join(SENTENCES).split(), k=count))


def _write(path: Path, lines: Any, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}{end}" for line in lines), encoding="utf-8")


def _write_pairs(path: Path, draw: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for _ in range(30):
            asked = f"\n\nHuman: {_words(draw, 4)}?"
            chosen, rejected = (f"{asked}\n\nAssistant: {_words(draw, n)}" for n in (4, 6))
            out.write(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")


def _tree(number: int, draw: random.Random) -> dict[str, Any]:
    replies = [
        {"role": "assistant", "text": _words(draw, 5), "rank": rank, "replies": []}
        for rank in range(3)
    ]
    asked = {"role": "prompter", "text": f"{_words(draw, 4)}?", "replies": replies}
    return {"message_tree_id": f"t{number}", "prompt": asked}
