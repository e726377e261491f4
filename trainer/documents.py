"""Running text on disk: which files are its documents, and where a long one may be cut."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import BinaryIO

from trainer.errors import DataError

_SUFFIXES = ("", ".txt", ".text", ".md")
_NAMED = 3  # files that were not read and are named
_REACH = 1024  # bytes in which a better place to cut is looked for
_CUTS = (
    re.compile(rb"(?<=\S)(?= \S)"),  # between words; a byte-level token begins with the space
    re.compile(rb"(?<=\n)"),
    re.compile(rb"(?![\x80-\xbf])"),  # between characters of UTF-8
)


class Documents:
    """The documents of a text, a file each, as one row of ``size`` bytes.

    A file that is named is read whatever its name. Of a folder and those in it files without a
    suffix, .txt, .text and .md are, in the order of their names; hidden ones are passed over,
    and ``notes`` says which others are there. DataError if there is nothing under this path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notes: tuple[str, ...] = ()
        if not self.path.exists():
            raise DataError(f"The pretraining text {path} does not exist.")
        self._files = [self.path]
        if self.path.is_dir():
            found = _visible_files(self.path)
            self._files = [p for p in found if p.suffix in _SUFFIXES]
            self.notes = _notes(self.path, [p for p in found if p.suffix not in _SUFFIXES])
        self._ends = list(accumulate(file.stat().st_size for file in self._files))
        self.size = self._ends[-1] if self._ends else 0

    def pieces(
        self, start: int = 0, stop: int | None = None, step: int = 1 << 16
    ) -> Iterator[tuple[str, bool]]:
        """The text from byte ``start`` to ``stop`` in pieces of about ``step`` bytes, each with
        whether a document begins with it.

        A cut is put off to where it does least harm, which the file alone decides: a call that
        starts where another stopped goes on from its last word.
        """
        stop = self.size if stop is None else stop
        for number in range(bisect_right(self._ends, start), len(self._files)):
            first = self._ends[number - 1] if number else 0
            if first >= stop:
                return
            size = self._ends[number] - first
            here, last = max(0, start - first), min(size, stop - first)
            yield from _file_pieces(self._files[number], size, here, last, step)


def _visible_files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _notes(folder: Path, others: list[Path]) -> tuple[str, ...]:
    """That these files of a folder are not read, the first of them by name."""
    if not others:
        return ()
    names = ", ".join(path.relative_to(folder).as_posix() for path in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    note = f"Not read in the text folder {folder.name}: {names}{more}."
    return (f"{note} Files without a suffix, .txt, .text and .md are.",)


def _file_pieces(
    file: Path, size: int, start: int, stop: int, step: int
) -> Iterator[tuple[str, bool]]:
    with file.open("rb") as source:
        here = _cut(source, start, size)
        for mark in chain(range(start + step, stop, step), [stop]):
            after = _cut(source, mark, size)
            source.seek(here)
            try:
                text = source.read(after - here).decode()
            except UnicodeDecodeError:
                raise DataError(f"{file} is not UTF-8 text.") from None
            if text:
                yield text.replace("\r\n", "\n").replace("\r", "\n"), here == 0
            here = after


def _cut(source: BinaryIO, at: int, size: int) -> int:
    """The best place from byte ``at`` on that is near: between words, else lines, else characters.

    It never falls when ``at`` grows. The end of the file is as good as any.
    """
    if at <= 0 or at >= size:
        return at
    source.seek(at - 1)
    block = source.read(1 + _REACH)
    for kind in _CUTS:
        if found := kind.search(block, 1):
            return at - 1 + found.start()
        if at - 1 + len(block) >= size:
            break
    return size
