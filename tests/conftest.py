"""What every test shares: real servers (tests/servers.py), fast hashing, and the lockout off unless asked for."""

import os
from pathlib import Path

import django
import pytest
from django.conf import settings as django_settings

from tests.servers import prepare

os.environ["DJANGO_SETTINGS_MODULE"] = "labelapp.settings"
prepare()
django.setup()  # before deeper conftests import models


@pytest.fixture(autouse=True)
def _settings_for_tests(request: pytest.FixtureRequest, settings: django_settings) -> None:
    """Passwords hash fast; failed sign-ins lock nobody out, but in tests marked `lockout`."""
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.MD5PasswordHasher",
        "django.contrib.auth.hashers.Argon2PasswordHasher",
    ]
    settings.AXES_ENABLED = request.node.get_closest_marker("lockout") is not None


@pytest.fixture
def store(settings: django_settings, tmp_path: Path) -> Path:
    """An empty LABELAPP_STORE of this test alone."""
    folder = tmp_path / "store"
    folder.mkdir()
    settings.LABELAPP_STORE = folder
    return folder


@pytest.fixture
def process_environment(
    settings: django_settings, transactional_db: None
) -> dict[str, str]:
    """The environment with which a child process (a worker, a command) works on the test database and broker."""
    database = django_settings.DATABASES["default"]
    base = os.environ["DATABASE_URL"].rsplit("/", 1)[0]
    return os.environ | {
        "DATABASE_URL": f"{base}/{database['NAME']}",
        "REDIS_URL": settings.REDIS_URL,
        "LABELAPP_STORE": str(settings.LABELAPP_STORE),
        "DJANGO_SETTINGS_MODULE": "labelapp.settings",
        "OMP_NUM_THREADS": "1",
    }
