"""Stage ``base``: one model folder in Hugging Face format from a package, a folder or the Hub.

Architecture and tokenizer are read, never assumed: what is needed is a causal language model
and a tokenizer that fits it.
"""

import dataclasses
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from trainer.config import BaseConfig
from trainer.errors import ModelError
from trainer.model_folder import save_model_folder
from trainer.records import SCHEMA_VERSION, Manifest
from trainer.stage_io import MODEL, Run, folder_files
from trainer.text import Codec


class Source(NamedTuple):
    """Where a model is read from: a folder or Hub id, and the GGUF file in it if it is one."""

    name: str
    place: str
    gguf_file: str | None


def run(config: BaseConfig, run: Run) -> None:
    """Write ``model/`` and the manifest."""
    started = time.monotonic()
    source = find_source(config.source)
    model, tokenizer = _load(source)
    _check_fit(model, tokenizer)
    with tempfile.TemporaryDirectory(dir=run.out, prefix=".tokenizer") as beside:
        tokenizer.save_pretrained(beside)
        save_model_folder(model, beside, run.out / MODEL)
    codec = Codec.load(run.out / MODEL)
    notes = () if source.gguf_file is None else (f"Converted from {source.gguf_file}.",)
    run.finish(
        Manifest(
            schema_version=SCHEMA_VERSION,
            kind="base",
            name=source.name,
            rows=0,
            files=folder_files(run.out),
            settings={k: v for k, v in dataclasses.asdict(config).items() if k != "out"},
            metrics={
                "parameters": sum(p.numel() for p in model.parameters()),
                "vocabulary": codec.vocab_size,
                "chat_template": codec.stop is None,
                "seconds": round(time.monotonic() - started, 3),
            },
            notes=notes,
        )
    )


def find_source(source: str) -> Source:
    """Resolve ``package:NAME``, a .gguf file, a folder, or else a Hub id; nothing is imported."""
    if source.startswith("package:"):
        package = source.removeprefix("package:")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise ModelError(f"The package {package!r} is not installed; install it or set a path.")
        found = sorted(Path(places[0]).glob("*.gguf"))
        if len(found) != 1:
            raise ModelError(f"The package {package!r} holds {len(found)} GGUF files, not one.")
        return _gguf_source(found[0])
    path = Path(source)
    if path.suffix == ".gguf" and path.is_file():
        return _gguf_source(path)
    if path.is_dir():
        return Source(path.resolve().name, source, None)
    if path.is_absolute() or source.startswith("."):
        raise ModelError(f"The model folder {source} does not exist.")
    return Source(source.rsplit("/", 1)[-1], source, None)


def _gguf_source(path: Path) -> Source:
    return Source(path.name.split(".", 1)[0], str(path.parent), path.name)


def _load(source: Source) -> tuple[Any, Any]:
    """The model and its tokenizer; ModelError with the reason when either is not to be had."""
    named = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    dtype: Any = torch.float32 if named else "auto"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.place, **named)
        model = AutoModelForCausalLM.from_pretrained(source.place, dtype=dtype, **named)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"{source.place} gives no causal language model with a tokenizer: {error}"
        ) from None
    if source.gguf_file is not None:
        _restore_digits(Path(source.place) / source.gguf_file, tokenizer)
        model = _rebuilt(model)
    return model, tokenizer


def _rebuilt(model: Any) -> Any:
    """The same weights in a model that was never quantised, so that it saves as one."""
    plain = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "architectures"):
        plain.pop(key, None)
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    return fresh


def _restore_digits(path: Path, tokenizer: Any) -> None:
    """Split numbers into digits before merging, which a GGUF file of "smollm" kind implies."""
    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _check_fit(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"The tokenizer has ids up to {largest}, the model only {rows} embeddings:"
            " they do not belong together."
        )
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise ModelError("The model has weights that are not finite numbers.")
