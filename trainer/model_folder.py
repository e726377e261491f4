"""Model folders: written beside and renamed, in Hugging Face format, with nothing of this machine in them."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.records import write_atomic

_FOREIGN = {"_name_or_path", "_model_name_or_path", "quantization_config"}
_TOKENIZER_WORDS = ("token", "vocab", "merges", "chat_template", "sentencepiece", "spiece")


def save_model_folder(model: Any, tokenizer_from: str | Path, dest: Path) -> None:
    """Save ``model`` in Hugging Face format with the tokenizer files of another model folder.

    Written beside and renamed. The settings keep no path of this machine, no quantisation of
    the source, and of its generation defaults only the token ids.
    """
    with replaced_folder(dest) as beside:
        model.save_pretrained(beside)
        for path in sorted(Path(tokenizer_from).iterdir()):
            if path.is_file() and _is_tokenizer_file(path.name):
                shutil.copyfile(path, beside / path.name)
        _clean_json(beside / "config.json", lambda key: key not in _FOREIGN)
        _clean_json(beside / "generation_config.json", lambda key: key.endswith("_token_id"))


@contextlib.contextmanager
def replaced_folder(dest: Path) -> Iterator[Path]:
    """A new folder beside ``dest`` that takes its place when the block ends without error."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    for left_over in dest.parent.glob(f".{dest.name}.*.part"):
        shutil.rmtree(left_over, ignore_errors=True)
    beside = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    beside.mkdir()
    try:
        yield beside
        for path in beside.rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        if dest.exists():
            shutil.rmtree(dest)
        beside.rename(dest)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _is_tokenizer_file(name: str) -> bool:
    return name.endswith((".model", ".tiktoken")) or any(w in name for w in _TOKENIZER_WORDS)


def _clean_json(path: Path, keep: Callable[[str], bool]) -> None:
    if path.is_file():
        plain = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in plain.items() if keep(key)}
        write_atomic(path, [json.dumps(kept, indent=2, sort_keys=True), "\n"])
