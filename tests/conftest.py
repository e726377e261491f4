"""What every test shares: real servers (tests/servers.py), fast hashing, and the lockout off unless asked for."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.management.base import CommandError
from django.core.management.commands.flush import Command as Flush
from django.utils import translation
from playwright.sync_api import Browser, Page
from pytest_django import Settings

from labelapp.catalogs import compile_stale
from tests.browser import chromium, watched
from tests.servers import prepare

os.environ["DJANGO_SETTINGS_MODULE"] = "labelapp.settings"
prepare()
compile_stale()
django.setup()  # before deeper conftests import models


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let each process of a parallel run name its own Valkey number before it reads the settings."""
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)


def _patient(flush: Callable[..., None]) -> Callable[..., None]:
    """A request that is still under way when its test ends can deadlock with the flush; try again."""

    def handle(*args: Any, **options: Any) -> None:
        for left in (4, 3, 2, 1, 0):
            try:
                flush(*args, **options)
                return
            except CommandError as error:
                if left == 0 or "deadlock" not in str(error.__cause__):
                    raise
                time.sleep(0.5)

    return handle


Flush.handle = _patient(Flush.handle)  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _settings_for_tests(request: pytest.FixtureRequest, settings: Settings) -> None:
    """Passwords hash fast; failed sign-ins lock nobody out, but in tests marked `lockout`; English is spoken."""
    translation.deactivate()  # what a request of an earlier test has left
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.MD5PasswordHasher",
        "django.contrib.auth.hashers.Argon2PasswordHasher",
    ]
    settings.AXES_ENABLED = request.node.get_closest_marker("lockout") is not None


@pytest.fixture
def store(settings: Settings, tmp_path: Path) -> Path:
    """An empty LABELAPP_STORE of this test alone."""
    folder = tmp_path / "store"
    folder.mkdir()
    settings.LABELAPP_STORE = folder
    return folder


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """For servers of a test's own: pytest closes its folders to the user that PostgreSQL runs as."""
    folder = Path(tempfile.mkdtemp(prefix="labelapp-servers-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def process_environment(settings: Settings, transactional_db: None) -> dict[str, str]:
    """The environment with which a child process (a worker, a command) works on the test database and broker."""
    database = settings.DATABASES["default"]
    base = os.environ["DATABASE_URL"].rsplit("/", 1)[0]
    return os.environ | {
        "DATABASE_URL": f"{base}/{database['NAME']}",
        "REDIS_URL": settings.REDIS_URL,
        "LABELAPP_STORE": str(settings.LABELAPP_STORE),
        "DJANGO_SETTINGS_MODULE": "labelapp.settings",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the whole run."""
    # Playwright keeps an event loop in this thread, where Django would refuse ordinary queries
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with chromium() as running:
        yield running
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def watched_page(browser: Browser) -> Iterator[Page]:
    """A fresh page; script errors and anything the content-security-policy blocked fail the test."""
    with watched(browser) as page:
        yield page
