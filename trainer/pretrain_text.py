"""Running text for pretraining and for the pretraining mix of PPO-ptx: files to token windows."""

import random
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.data import Check, go_on, shuffled
from trainer.documents import Documents
from trainer.errors import DataError
from trainer.records import MANIFEST, Parent, file_sha256, read_manifest
from trainer.stage_io import parent_of
from trainer.text import Codec

_PLACE = 16  # bytes for each token of a window: more than the tokens of any language have


class TokenStream:
    """The ids of a text: its documents one after the other, each begun by ``start_ids``.

    ``size`` is in bytes. ``notes`` is what a manifest has to say of the text: what a run that
    made it says, in its folder or the one above, and which files of a folder were not read.
    """

    def __init__(self, path: str | Path, codec: Codec, start_ids: Sequence[int]) -> None:
        self._documents, self._codec, self._start_ids = Documents(path), codec, start_ids
        # Some tokenizers put a space before whatever they are given: theirs stands for ours.
        self._spaced = codec.encode_text("a a") == 2 * codec.encode_text("a")
        self.path, self.size = self._documents.path, self._documents.size
        self.notes = (*_maker_notes(self.path), *self._documents.notes)

    def ids(
        self, start: int = 0, stop: int | None = None, step: int = 1 << 16
    ) -> Iterator[list[int]]:
        """Piece by piece, as ``Documents.pieces`` cuts them; those that are blank have none."""
        begins = False
        for text, first in self._documents.pieces(start, stop, step):
            begins = begins or first
            if not text.strip():
                continue
            if self._spaced and not first:
                text = text.removeprefix(" ")
            yield [*(self._start_ids if begins else ()), *self._codec.encode_text(text)]
            begins = False


class Windows:
    """Windows of ``length`` tokens, in the order in which they stand in ``ids``.

    What is left at the end is dropped, but if there is less than one window, that is one.
    """

    def __init__(self, ids: "array[int]", length: int) -> None:
        self._ids, self._length = ids, length

    @classmethod
    def of_text(cls, text: TokenStream, length: int, check: Check = go_on) -> "Windows":
        """All of a text, in its order; ``check`` is called between two pieces of it."""
        found = array("i")  # four bytes each
        for ids in text.ids():
            check()
            found.extend(ids)
        if len(found) < 2:
            raise DataError(" ".join((f"{text.path} holds no text to learn from.", *text.notes)))
        return cls(found, length)

    def __len__(self) -> int:
        return max(1, len(self._ids) // self._length)

    def __getitem__(self, number: int) -> list[int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._ids[number * self._length : (number + 1) * self._length].tolist()


class PretrainText:
    """Windows of ``length`` tokens for a run that takes ``wanted``, in passes keyed by seed.

    The text is divided, at byte positions drawn by seed, into places of 16 bytes for each token
    of a window. Where these are more than the windows wanted, that many are drawn by seed over
    all documents, and only they are read: each gives the window that begins with its first whole
    word. Otherwise, or where the places do not hold enough, all windows of the text are there.
    Of two runs for which places are drawn the longer begins with the windows of the shorter.
    """

    def __init__(self, path: str | Path, codec: Codec, length: int, wanted: int, seed: int) -> None:
        text = TokenStream(path, codec, codec.start_ids)
        self._seed, self.notes = seed, text.notes
        drawn = _drawn_windows(text, length, wanted, seed)
        self.windows = drawn or Windows.of_text(text, length)
        self._drawn = drawn is not None

    def take(self, start: int, count: int) -> list[list[int]]:
        """Windows ``start`` to ``start + count - 1`` of an endless sequence of shuffled passes."""
        size = len(self.windows)
        passes = {i // size for i in range(start, start + count)}
        orders = {number: self._order(number) for number in passes}
        return [self.windows[orders[i // size][i % size]] for i in range(start, start + count)]

    def _order(self, number: int) -> Sequence[int]:
        """Of a pass: in the first, drawn windows come as they were drawn."""
        size = len(self.windows)
        return range(size) if self._drawn and number == 0 else shuffled(size, self._seed, number)


def _drawn_windows(text: TokenStream, length: int, wanted: int, seed: int) -> Windows | None:
    """One window of each of ``wanted`` places, as drawn; none if fewer places than that hold one."""
    size = _PLACE * length
    draws = random.Random(f"{seed}:places")
    shift = draws.randrange(size)  # so that a window may begin anywhere
    count = -(-(text.size + shift) // size)
    if count <= wanted:
        return None
    found = array("i")
    for place in _drawn(count, draws):
        start = place * size - shift
        ids: list[int] = []
        # in halves, as the first nearly always holds the window
        for more in text.ids(start, start + size, size // 2):
            ids += more
            if len(ids) >= length:
                found.extend(ids[:length])
                break
        if len(found) == length * wanted:
            return Windows(found, length)
    return None


def _drawn(count: int, draws: random.Random) -> Iterator[int]:
    """0 to count - 1 in an order that is drawn; costs no more than what is taken of it."""
    moved: dict[int, int] = {}  # Fisher and Yates, of a list that is there only where it changed
    for last in range(count - 1, -1, -1):
        place = draws.randint(0, last)
        yield moved.get(place, place)
        moved[place] = moved.pop(last, last)


def text_parent(path: str | Path, role: str = "pretrain_text") -> Parent:
    """The text as a parent of a run: a file by its hash, a folder by its manifest or its files."""
    path = Path(path)
    if path.is_file():
        return Parent(role, path.name, file_sha256(path))
    return parent_of(role, path)


def _maker_notes(path: Path) -> tuple[str, ...]:
    """What the folder of the text, or the one above, says of itself if a run made it."""
    folders = [folder for folder in (path, path.parent) if (folder / MANIFEST).is_file()]
    return read_manifest(folders[0]).notes if folders else ()
