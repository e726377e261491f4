"""settings.py, as a real process reads it: refusals, modes, and `check --deploy`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labelapp import settings as loaded

ROOT = Path(__file__).resolve().parents[2]
KEY = "k3y-for-tests-only-0123456789-abcdefghijklmnopqrstuvwxyz"
PRODUCTION = {
    "LABELAPP_MODE": "production",
    "SECRET_KEY": KEY,
    "PSEUDONYM_KEY": KEY[::-1],
    "ALLOWED_HOSTS": "label.example.org",
    "DATABASE_URL": "postgresql://labelapp:secret@127.0.0.1:5/labelapp",
    "REDIS_URL": "redis://127.0.0.1:6/0",
    "TRUST_PROXY_TLS": "1",
}


def manage(
    *arguments: str, folder: Path, without: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run manage.py in a production environment changed by `variables`, less `without`."""
    environment = {"PATH": os.environ["PATH"], "LABELAPP_VAR": str(folder)} | PRODUCTION | variables
    environment.pop(without, None)
    command = [sys.executable, "-W", "error", "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_check_deploy_finds_nothing_in_production(tmp_path: Path) -> None:
    done = manage("check", "--deploy", "--fail-level", "WARNING", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no issues (0 silenced)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["SECRET_KEY", "PSEUDONYM_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL"]
)
def test_production_does_not_start_without(name: str, tmp_path: Path) -> None:
    done = manage("check", folder=tmp_path, without=name)
    assert done.returncode != 0
    assert "cannot start in production mode" in done.stderr
    assert f"{name} is not set" in done.stderr


def test_production_is_the_mode_nobody_chose(tmp_path: Path) -> None:
    done = manage("check", folder=tmp_path, without="LABELAPP_MODE", SECRET_KEY="")
    assert "cannot start in production mode" in done.stderr


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    done = manage("check", folder=tmp_path, SECRET_KEY="short", MIN_RANKINGS="few", REDIS_URL="")
    for words in (
        "SECRET_KEY must be a random text of at least 50 characters",
        "MIN_RANKINGS must be a whole number",
        "REDIS_URL is not set",
    ):
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LABELAPP_MODE", "prod", "must be one of demo, development, production"),
        ("LABELAPP_PORT", "70000", "must be a whole number from 1 to 65535"),
        ("TRUST_PROXY_TLS", "maybe", "must be one of"),
        ("DATABASE_URL", "mysql://h/d", "must be an address that begins with postgresql://"),
        ("LABELAPP_STORE", "store", "must be an absolute path"),
        ("THROTTLE_SUBMIT", "often", "must look like 20/minute"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(
    name: str, value: str, words: str, tmp_path: Path
) -> None:
    done = manage("check", folder=tmp_path, **{name: value})
    assert done.returncode != 0
    assert f"{name} {words}" in done.stderr


def test_the_demo_listens_on_loopback_only(tmp_path: Path) -> None:
    done = manage("check", folder=tmp_path, LABELAPP_MODE="demo", LABELAPP_BIND="0.0.0.0")
    assert done.returncode != 0
    assert "LABELAPP_BIND must be a loopback address" in done.stderr


@pytest.mark.slow
def test_the_demo_makes_its_own_keys_and_keeps_them(tmp_path: Path) -> None:
    keys = {"SECRET_KEY": "", "PSEUDONYM_KEY": "", "ALLOWED_HOSTS": ""}
    script = "from django.conf import settings as s; print(s.SECRET_KEY, s.DEBUG, s.SESSION_COOKIE_SECURE)"
    outputs = [
        manage("shell", "-v0", "-c", script, folder=tmp_path, LABELAPP_MODE="demo", **keys).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1]
    key, debug, secure = outputs[0].split()
    assert (len(key) > 60, debug, secure) == (True, "False", "False")
    assert (tmp_path / "secret-key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "pseudonym-key").read_text() != key


@pytest.mark.slow
def test_checks_name_what_is_wrong(tmp_path: Path) -> None:
    done = manage(
        "check",
        "--deploy",
        folder=tmp_path,
        PSEUDONYM_KEY=KEY,
        ALLOWED_HOSTS="*",
        LABELAPP_STORE="/proc/store",
        LABELAPP_BASE_MODEL="/nowhere/model",
        LABELAPP_PRETRAIN_TEXT="/nowhere/text",
        TRUST_PROXY_TLS="0",
    )
    assert done.returncode != 0
    for number in ("E001", "E002", "E003", "E004", "E005", "W001"):
        assert f"labelapp.{number}" in done.stderr, number


def test_no_page_may_run_inline_script() -> None:
    directives = loaded.CONTENT_SECURITY_POLICY["DIRECTIVES"]
    assert directives["default-src"] == ["'self'"]
    assert not any("unsafe" in source for sources in directives.values() for source in sources)


def test_the_readme_holds_the_table_of_variables_as_it_is() -> None:
    assert loaded.environment.table() in (ROOT / "README.md").read_text()
