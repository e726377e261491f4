"""Running text for pretraining and for the pretraining mix of PPO-ptx: files to token windows."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainer.data import shuffled
from trainer.errors import DataError
from trainer.records import MANIFEST, Parent, file_sha256, read_manifest
from trainer.stage_io import parent_of
from trainer.text import Codec

_PIECE = 1 << 16  # characters encoded at once


class PretrainText:
    """Windows of ``length`` tokens cut from one stream of text, drawn in an order keyed by seed.

    Documents follow one another, each begun by the tokenizer's start token. At most ``wanted``
    windows are read: a run that needs a few does not encode a library.
    """

    def __init__(self, path: str | Path, codec: Codec, length: int, wanted: int, seed: int) -> None:
        self._seed = seed
        stream: list[int] = []
        for ids in token_stream(path, codec, codec.start_ids):
            stream += ids
            if len(stream) >= length * wanted:
                break
        if len(stream) < 2:
            raise DataError(f"{path} holds no text for the pretraining mix.")
        if len(stream) < length:
            self.windows = [stream]
        else:
            self.windows = [
                stream[i : i + length] for i in range(0, len(stream) - length + 1, length)
            ]

    def take(self, start: int, count: int) -> list[list[int]]:
        """Windows ``start`` to ``start + count - 1`` of an endless sequence of shuffled passes."""
        size = len(self.windows)
        passes = {i // size for i in range(start, start + count)}
        orders = {number: shuffled(size, self._seed, number) for number in passes}
        return [self.windows[orders[i // size][i % size]] for i in range(start, start + count)]


class Windows:
    """All windows of ``length`` tokens of a text, in its order; the ids take four bytes each.

    ``start_ids`` begin each document. What is left at the end is dropped, but a text shorter
    than one window is one. ``check`` is called between two pieces of the text.
    """

    def __init__(
        self,
        path: str | Path,
        codec: Codec,
        length: int,
        start_ids: Sequence[int],
        check: Callable[[], None],
    ) -> None:
        self._stream = array("i")
        for ids in token_stream(path, codec, start_ids):
            check()
            self._stream.extend(ids)
        if len(self._stream) < 2:
            raise DataError(f"{path} holds no text to learn from.")
        self._length = length

    def __len__(self) -> int:
        return max(1, len(self._stream) // self._length)

    def __getitem__(self, number: int) -> list[int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._stream[number * self._length : (number + 1) * self._length].tolist()


def token_stream(path: str | Path, codec: Codec, start_ids: Sequence[int]) -> Iterator[list[int]]:
    """The ids of a text, piece by piece, each begun by ``start_ids``."""
    for text in _pieces(Path(path)):
        yield [*start_ids, *codec.encode_text(text)]


def _pieces(path: Path) -> Iterator[str]:
    """Text of a file, or of every file of a folder in the order of their names."""
    if not path.exists():
        raise DataError(f"The pretraining text {path} does not exist.")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.name.startswith(".") or file.suffix not in ("", ".txt", ".text", ".md"):
            continue
        try:
            with file.open(encoding="utf-8") as source:
                while text := source.read(_PIECE):
                    if text.strip():
                        yield text
        except UnicodeDecodeError:
            raise DataError(f"{file} is not UTF-8 text.") from None


def text_parent(path: str | Path, role: str = "pretrain_text") -> Parent:
    """The text as a parent of a run: a file by its hash, a folder by its manifest or its files."""
    path = Path(path)
    if path.is_file():
        return Parent(role, path.name, file_sha256(path))
    return parent_of(role, path)


def text_notes(path: str | Path | None) -> tuple[str, ...]:
    """What the folder of the text, or the one above, says of itself if a run made it."""
    if path is None:
        return ()
    folders = [f for f in (Path(path), Path(path).parent) if (f / MANIFEST).is_file()]
    return read_manifest(folders[0]).notes if folders else ()
