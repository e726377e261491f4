"""How long a text is in a model's own tokens: its tokenizer.json alone is read, torch stays out."""

from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from labelapp.store import model_folder

TOKENIZER = "tokenizer.json"


def token_count(run_id: UUID, text: str) -> int | None:
    """Tokens of ``text`` for the model that this run made; none where its folder is out of reach.

    A control token spelled out is counted as the ordinary text that the trainer takes it for.
    """
    path = model_folder(run_id) / TOKENIZER
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    tokenizer = _tokenizer(path, changed)
    return None if tokenizer is None else len(tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=4)
def _tokenizer(path: Path, changed: int) -> Any:
    """The tokenizer of one model folder, none if it cannot be read; ``changed`` is when it was written."""
    from tokenizers import Tokenizer  # here: only processes that count tokens pay for it

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # the library raises nothing narrower
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
