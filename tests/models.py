"""Tiny models for tests whose process stays without torch: built once by another process, then copied."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILDER = ROOT / "tests" / "trainer" / "tiny.py"
KEPT = ROOT / "var" / "test" / "models"
"""Here later runs find them, too; a model belongs to its builder's source and the libraries' versions."""


def tiny_model(arch: str, folder: Path) -> Path:
    """A copy of the tiny model of that architecture."""
    whole = f"{arch} {version('torch')} {version('transformers')} {BUILDER.read_text()}"
    kept = KEPT / f"{arch}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
    if not kept.is_dir():
        _build(arch, kept)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    return folder


def _build(arch: str, kept: Path) -> None:
    """Put in place whole; of two that build at once the second finds it there."""
    new = kept.with_name(f"{kept.name}.{os.getpid()}")
    command = [sys.executable, "-m", "tests.trainer.tiny", "--arch", arch, "--out", str(new)]
    subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    try:
        new.rename(kept)
    except OSError:  # there already
        shutil.rmtree(new)
