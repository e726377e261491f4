"""Reading environment variables: typed, refusing nonsense, and remembered in one registry.

Standard library only. `labelapp.settings` declares every variable through these helpers, so the registry is the
whole list: README's table, docker-compose.yml and the production checks are held against it by tests.
"""

import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

Value = TypeVar("Value")


class EnvironmentProblem(ValueError):
    """A variable holds something that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Variable:
    """One environment variable, as `labelapp.settings` declares it."""

    name: str
    meaning: str
    default: str
    """What holds where it is unset, in words or as a value; empty where nothing does."""
    required: bool
    """Whether production refuses to start without it."""


class Environment:
    """The variables of one process. Problems are collected, so that all of them are told at once."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = dict(os.environ) if values is None else values
        self.declared: dict[str, Variable] = {}
        self.problems: list[str] = []

    def text(
        self,
        name: str,
        meaning: str,
        default: str = "",
        *,
        described: str | None = None,
        required: bool = False,
    ) -> str:
        """A string without surrounding blanks; unset and empty are the same."""
        shown = default if described is None else described
        return self._read(name, meaning, default, shown, required, str)

    def secret(self, name: str, meaning: str, *, shortest: int = 50) -> str:
        """A key of at least `shortest` characters; required in production, no default anywhere."""

        def parse(raw: str) -> str:
            if len(raw) < shortest or len(set(raw)) < 5:
                raise ValueError(f"must be a random text of at least {shortest} characters")
            return raw

        return self._read(name, meaning, "", "generated, kept in `var/`", True, parse)

    def integer(
        self, name: str, meaning: str, default: int, *, lowest: int = 0, highest: int = 2**31 - 1
    ) -> int:
        """A whole number between `lowest` and `highest`."""

        def parse(raw: str) -> int:
            if not raw.lstrip("-").isdigit() or not lowest <= int(raw) <= highest:
                raise ValueError(f"must be a whole number from {lowest} to {highest}")
            return int(raw)

        return self._read(name, meaning, default, str(default), False, parse)

    def flag(self, name: str, meaning: str, default: bool) -> bool:
        """1, true, yes, on or 0, false, no, off."""
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}

        def parse(raw: str) -> bool:
            if raw.lower() not in words:
                raise ValueError(f"must be one of {', '.join(words)}")
            return words[raw.lower()]

        return self._read(name, meaning, default, "1" if default else "0", False, parse)

    def choice(
        self,
        name: str,
        meaning: str,
        options: tuple[str, ...],
        default: str,
        described: str | None = None,
    ) -> str:
        """One of `options`."""

        def parse(raw: str) -> str:
            if raw not in options:
                raise ValueError(f"must be one of {', '.join(options)}")
            return raw

        return self._read(name, meaning, default, described or default, False, parse)

    def names(
        self, name: str, meaning: str, *, described: str = "none", required: bool = False
    ) -> list[str]:
        """A list, separated by commas; empty where unset."""

        def parse(raw: str) -> list[str]:
            return [part.strip() for part in raw.split(",") if part.strip()]

        return self._read(name, meaning, [], described, required, parse)

    def path(self, name: str, meaning: str, default: Path, described: str) -> Path:
        """An absolute path; `~` is expanded. `described` stands for the default in documentation."""

        def parse(raw: str) -> Path:
            path = Path(raw).expanduser()
            if not path.is_absolute():
                raise ValueError("must be an absolute path")
            return path

        return self._read(name, meaning, default, described, False, parse)

    def url(
        self, name: str, meaning: str, schemes: tuple[str, ...], *, described: str, required: bool
    ) -> str:
        """An address with one of `schemes`; empty where unset."""

        def parse(raw: str) -> str:
            if raw.split("://", 1)[0] not in schemes or "://" not in raw:
                shown = " or ".join(f"{scheme}://" for scheme in schemes)
                raise ValueError(f"must be an address that begins with {shown}")
            return raw

        return self._read(name, meaning, "", described, required, parse)

    def rate(self, name: str, meaning: str, default: str) -> str:
        """So many requests in a second, minute, hour or day: 20/minute."""

        def parse(raw: str) -> str:
            count, _, period = raw.partition("/")
            if not count.isdigit() or int(count) < 1 or period[:1] not in tuple("smhd"):
                raise ValueError("must look like 20/minute (second, minute, hour or day)")
            return raw

        return self._read(name, meaning, default, default, False, parse)

    def missing(self) -> list[Variable]:
        """Required variables that are unset or empty."""
        return [v for v in self.declared.values() if v.required and not self._raw(v.name)]

    def table(self) -> str:
        """Every variable as a Markdown table; README.md holds it, and a test compares."""
        rows = ["| variable | what it is | where unset |", "|---|---|---|"]
        for variable in self.declared.values():
            default = variable.default
            if default and " " not in default and "`" not in default:
                default = f"`{default}`"
            if variable.required:
                default = f"production refuses to start; else {default}"
            rows.append(f"| `{variable.name}` | {variable.meaning} | {default} |")
        return "\n".join(rows)

    def _raw(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def _read(
        self,
        name: str,
        meaning: str,
        default: Value,
        described: str,
        required: bool,
        parse: Callable[[str], Value],
    ) -> Value:
        self.declared[name] = Variable(name, meaning, described, required)
        raw = self._raw(name)
        if not raw:
            return default
        try:
            return parse(raw)
        except ValueError as error:
            self.problems.append(f"{name} {error}.")
            return default


def derived_secret(key: str, purpose: str) -> str:
    """A secret for one purpose, the same wherever the key is; nobody gets from it to the key."""
    return hmac.new(key.encode(), purpose.encode(), "sha256").hexdigest()


def generated_secret(path: Path) -> str:
    """The random key kept in `path` (mode 600), made at first use; only demo and development use it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    if not path.exists():
        descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64))
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass  # another process was first: its key counts
        finally:
            fresh.unlink()
    return path.read_text().strip()


def database(url: str) -> dict[str, object]:
    """A postgresql:// address as Django wants it; what follows `?` goes to the driver."""
    parts = urlsplit(url)
    # only what goes through labelapp.prepared is prepared
    options: dict[str, object] = {"connect_timeout": "10", "prepare_threshold": 1}
    for pair in filter(None, parts.query.split("&")):
        name, _, value = pair.partition("=")
        options[name] = unquote(value)
    return {
        "ENGINE": "labelapp.database",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or str(options.pop("host", "")),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
