"""The rules of the house, proved from the source and from real processes."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for top in ("labelapp", "trainer", "bench", "tests")
    for path in (ROOT / top).rglob("*.py")
    if "migrations" not in path.parts
)
LONGEST_FILE, LONGEST_FUNCTION = 400, 70
"""Lines; functions should stay near 60, docstring and signature included."""


def loaded(script: str, *, prepare: str = "") -> set[str]:
    """The top-level modules that a fresh Python has loaded after `script`."""
    tail = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{prepare}\n{script}\n{tail}"],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "labelapp.settings"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_every_import_contract_is_kept() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "file", "line"),
    [
        ("floors", "labelapp/services/zz_probe.py", "import labelapp.tasks"),
        ("floors", "labelapp/models/zz_probe.py", "import labelapp.services.signs"),
        ("floors", "labelapp/selectors/zz_probe.py", "def f():\n    import labelapp.views.health"),
        ("trainer-alone", "trainer/zz_probe.py", "import django"),
        ("one-gateway", "labelapp/services/zz_probe.py", "from trainer import records"),
        ("one-gateway", "labelapp/services/zz_probe.py", "import trainer.losses"),
        ("no-torch", "labelapp/views/zz_probe.py", "import torch"),
        ("bench-apart", "trainer/zz_probe.py", "import bench.flops"),
        ("bench-alone", "bench/zz_probe.py", "import labelapp.errors"),
    ],
)
def test_a_contract_breaks_where_it_should(
    contract: str, file: str, line: str, tmp_path: Path
) -> None:
    for name in ("labelapp", "trainer", "bench", "pyproject.toml"):
        copied = subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)])
        assert copied.returncode == 0
    (tmp_path / file).write_text(line + "\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(
        [*command, "--contract", contract], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    assert "zz_probe" in done.stdout


@pytest.mark.slow
def test_no_web_process_and_no_celery_worker_loads_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import labelapp.wsgi, labelapp.tasks\n"
        "from django.urls import get_resolver; get_resolver().url_patterns\n"
        "import labelapp.trainer_gateway\n"
        "import uuid, labelapp.tokens as tokens\n"
        "folder = tokens.model_folder(uuid.UUID(int=7)); folder.mkdir(parents=True, exist_ok=True)\n"
        "from tokenizers import Tokenizer, models\n"
        "Tokenizer(models.WordLevel({'a': 0}, unk_token='a')).save(str(folder / 'tokenizer.json'))\n"
        "assert tokens.token_count(uuid.UUID(int=7), 'a') == 1"
    )
    monkeypatch.setenv("LABELAPP_STORE", str(tmp_path))
    names = loaded(script)
    assert {"django", "tokenizers"} <= names
    assert not names & {"torch", "transformers", "accelerate", "gguf"}


@pytest.mark.slow
def test_the_trainer_loads_no_django() -> None:
    modules = [
        f"trainer.{path.stem}"
        for path in (ROOT / "trainer").glob("*.py")
        if not path.stem.startswith("__")
    ]
    names = loaded(f"import {', '.join(modules)}")
    assert "torch" in names
    assert not names & {"django", "labelapp", "celery", "psycopg"}


def test_the_contract_between_them_costs_nothing_to_import() -> None:
    before = loaded("")
    names = loaded("import trainer.records, trainer.config") - before - {"trainer"}
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_nothing_in_a_page_runs_or_styles_inline() -> None:
    for template in (ROOT / "templates").rglob("*.html"):
        text = template.read_text().lower()
        for word in ("<script>", "<style", " style=", " onclick=", "javascript:", "hx-on", "//cdn"):
            assert word not in text, f"{template.name} has {word}"
