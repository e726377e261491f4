"""The words of the interface in other languages: found in the sources, kept as .po, compiled to the .mo that Django reads.

    python -m labelapp.catalogs collect    what is new in the sources goes into the .po files, what is gone leaves them
    python -m labelapp.catalogs compile    makes the .mo files (part of `make install`)

Needs neither settings nor GNU gettext. A catalog is sorted and names no places in the sources, so that its differences
stay small; docs/translating.md says how to work with it.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polib
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
LOCALE = ROOT / "locale"
FUNCTIONS = {
    "_": ("id",),
    "gettext": ("id",),
    "gettext_lazy": ("id",),
    "gettext_noop": ("id",),
    "ngettext": ("id", "plural"),
    "ngettext_lazy": ("id", "plural"),
    "pgettext": ("context", "id"),
    "pgettext_lazy": ("context", "id"),
    "npgettext": ("context", "id", "plural"),
}
"""Names by which strings are marked, and what their first arguments are."""
_MARKED = re.compile(rf"\b({'|'.join(FUNCTIONS)})\(")
_LITERAL = re.compile(r"""\s*(u?(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))\s*,?""", re.DOTALL)
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|(?<![%{])\{(\w+)\}")


class Message(NamedTuple):
    """One string to be translated."""

    id: str
    plural: str = ""
    context: str = ""


def messages() -> set[Message]:
    """Every marked string of labelapp and its templates."""
    found: set[Message] = set()
    for file in sorted((ROOT / "labelapp").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "gettext" in source:
            found |= set(_in_python(source))
    for file in sorted((ROOT / "templates").rglob("*.html")):
        found |= set(_in_template(templatize(file.read_text(encoding="utf-8"))))
    return found


def _in_python(source: str) -> Iterator[Message]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", "")
        wanted = FUNCTIONS.get(name, ())
        said = [
            arg.value
            for arg in node.args[: len(wanted)]
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        if wanted and len(said) == len(wanted):
            yield Message(**dict(zip(wanted, said, strict=True)))


def _in_template(source: str) -> Iterator[Message]:
    """``source`` as Django's templatize leaves it: calls with literals amid crossed-out text."""
    for call in _MARKED.finditer(source):
        wanted, at = FUNCTIONS[call.group(1)], call.end()
        said: list[str] = []
        while len(said) < len(wanted) and (literal := _LITERAL.match(source, at)):
            said.append(ast.literal_eval(literal.group(1)))
            at = literal.end()
        if len(said) == len(wanted):
            yield Message(**dict(zip(wanted, said, strict=True)))


def catalogs() -> list[Path]:
    """The .po file of each language."""
    return sorted(LOCALE.glob("*/LC_MESSAGES/django.po"))


def stale() -> list[Path]:
    """Catalogs whose .mo is missing or older than they are."""
    return [
        file
        for file in catalogs()
        if not (made := file.with_suffix(".mo")).exists()
        or made.stat().st_mtime < file.stat().st_mtime
    ]


def collect() -> None:
    """Bring every catalog up to the sources; what is translated stays, what is new stays empty."""
    wanted = messages()
    for file in catalogs():
        old = polib.pofile(str(file), wrapwidth=0)
        by_worth = sorted(
            old, key=lambda entry: entry.translated()
        )  # after a merge, one may stand twice
        known = {_message(entry): entry for entry in by_worth}
        old.clear()
        for message in sorted(wanted):
            old.append(known.get(message) or _entry(message))
        old.save()
        print(f"{file.relative_to(ROOT)}: {len(problems(file))} left to translate")


def _message(entry: polib.POEntry) -> Message:
    return Message(entry.msgid, entry.msgid_plural, entry.msgctxt or "")


def _entry(message: Message) -> polib.POEntry:
    return polib.POEntry(
        msgid=message.id,
        msgid_plural=message.plural,
        msgctxt=message.context or None,
        msgstr_plural={0: "", 1: ""} if message.plural else {},
        flags=["python-format"] if "%(" in message.id else [],
    )


def problems(file: Path) -> list[str]:
    """What is wrong with a catalog: strings without a translation, unsure ones, other placeholders."""
    found = []
    wanted = messages()
    entries = {_message(entry): entry for entry in polib.pofile(str(file))}
    for message in sorted(wanted):
        entry = entries.get(message)
        said = list(entry.msgstr_plural.values()) if entry and message.plural else []
        said = said or [entry.msgstr if entry else ""]
        if entry is None or not all(said):
            found.append(f"not translated: {message.id}")
        elif entry.fuzzy:
            found.append(f"fuzzy: {message.id}")
        elif any(_placeholders(each) - _allowed(message) for each in said):
            found.append(f"unknown placeholder: {message.id}")
        elif _allowed(message) - _placeholders(said[-1]):
            found.append(f"lost placeholder: {message.id}")
    found += [f"no longer used: {each.id}" for each in sorted(set(entries) - wanted)]
    return found


def _placeholders(text: str) -> set[str]:
    return {named or braced for named, braced in _PLACEHOLDER.findall(text)}


def _allowed(message: Message) -> set[str]:
    return _placeholders(message.plural or message.id)


def compile_stale() -> None:
    """Make the .mo files that are missing or old, each in one step: others may be doing the same."""
    for file in stale():
        made = file.with_suffix(".mo")
        unfinished = made.with_suffix(f".{os.getpid()}")
        polib.pofile(str(file)).save_as_mofile(str(unfinished))
        unfinished.replace(made)


if __name__ == "__main__":
    commands = {"collect": collect, "compile": compile_stale}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit("usage: python -m labelapp.catalogs collect|compile")
    commands[sys.argv[1]]()
