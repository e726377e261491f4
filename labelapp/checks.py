"""Deployment mistakes as system checks: `manage.py check` tells them by id, with a hint that says what to do.

What is missing or malformed in the environment is refused earlier, by settings.py itself.

E001  one key used for two purposes         E004  the base model's folder is not there
E002  the store cannot be written           E005  the pretraining text is not there
E003  any host name is accepted             E006  no database is running
E020  a browser library is missing (labelapp.vendor)
E021  a language is not compiled
W001  nobody ends TLS (only with --deploy)
"""

import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from labelapp import catalogs


@register(Tags.security)
def keys_differ(**kwargs: Any) -> list[CheckMessage]:
    """Whoever learns one key must not hold the other."""
    if settings.SECRET_KEY != settings.PSEUDONYM_KEY:
        return []
    hint = "Make a second one: python -c 'import secrets; print(secrets.token_urlsafe(64))'"
    return [Error("SECRET_KEY and PSEUDONYM_KEY are the same.", hint=hint, id="labelapp.E001")]


@register(Tags.files)
def store_is_writable(**kwargs: Any) -> list[CheckMessage]:
    """Snapshots, runs and models are written there."""
    store = Path(settings.LABELAPP_STORE)
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store):
            return []
    except OSError as error:
        hint = "Set LABELAPP_STORE to a folder that web and workers share and may write to."
        message = f"LABELAPP_STORE ({store}) cannot be written: {error.strerror}."
        return [Error(message, hint=hint, id="labelapp.E002")]


@register(Tags.security)
def hosts_are_named(**kwargs: Any) -> list[CheckMessage]:
    """`*` lets anybody's host name into links that we send."""
    if not settings.PRODUCTION or "*" not in settings.ALLOWED_HOSTS:
        return []
    hint = "Name the hosts people type: ALLOWED_HOSTS=label.example.org"
    return [Error("ALLOWED_HOSTS accepts every name.", hint=hint, id="labelapp.E003")]


@register(Tags.files)
def named_paths_exist(**kwargs: Any) -> list[CheckMessage]:
    """A path in the environment that is not there fails now, not in a run hours later."""
    found: list[CheckMessage] = []
    model = settings.LABELAPP_BASE_MODEL
    if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
        message = f"LABELAPP_BASE_MODEL names a folder that is not there: {model}"
        hint = "Name a folder in Hugging Face format, or a Hub id."
        found.append(Error(message, hint=hint, id="labelapp.E004"))
    text = settings.LABELAPP_PRETRAIN_TEXT
    if text and not Path(text).expanduser().exists():
        message = f"LABELAPP_PRETRAIN_TEXT is not there: {text}"
        hint = "Name a text file or a folder of them, or leave it unset."
        found.append(Error(message, hint=hint, id="labelapp.E005"))
    return found


@register(Tags.translation)
def languages_are_compiled(**kwargs: Any) -> list[CheckMessage]:
    """Without its .mo a language is not spoken; with an old one it speaks partly English."""
    hint = "Run `make install`, or: python -m labelapp.catalogs compile"
    return [
        Error(f"{file} is newer than its .mo.", hint=hint, id="labelapp.E021")
        for file in catalogs.stale()
    ]


@register(Tags.database)
def a_database_is_there(**kwargs: Any) -> list[CheckMessage]:
    """Programs other than manage.py find embedded servers only where they already run."""
    if str(settings.DATABASES["default"]["PORT"]) != "1":
        return []
    hint = "Set DATABASE_URL and REDIS_URL, or start the embedded servers with `make demo`."
    return [Error("No database is running.", hint=hint, id="labelapp.E006")]


@register(Tags.security, deploy=True)
def tls_is_ended_somewhere(**kwargs: Any) -> list[CheckMessage]:
    """gunicorn speaks plain HTTP: without a trusted proxy every request is redirected for ever."""
    if not settings.PRODUCTION or settings.TRUST_PROXY_TLS:
        return []
    hint = "Put a TLS-ending proxy in front (deploy/Caddyfile) and set TRUST_PROXY_TLS=1."
    return [Warning("No proxy is trusted to end TLS.", hint=hint, id="labelapp.W001")]
