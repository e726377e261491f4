"""Running text: which files are read, where they are cut, and which windows of them a run has."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import normalizers

from tests.trainer.tiny import TEXT, build_tokenizer
from trainer.documents import Documents
from trainer.errors import DataError
from trainer.pretrain_text import PretrainText, TokenStream, Windows
from trainer.text import Codec

MARKS = "".join(f"w{i:04d} " for i in range(2000))  # 12,000 bytes that say where they stand


@pytest.fixture(scope="module")
def codec(tiny_gpt2: Path) -> Codec:
    return Codec.load(tiny_gpt2)


def library(folder: Path, **texts: str) -> Path:
    """A folder of one .txt file for each of these."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, newline="")
    return folder


def stream(path: Path, codec: Codec, step: int = 1 << 16) -> list[int]:
    ids = TokenStream(path, codec, codec.start_ids).ids(step=step)
    return [token for piece in ids for token in piece]


def whole(codec: Codec, *texts: str) -> list[int]:
    """Each text begun once by the start token and encoded at once."""
    return [token for text in texts for token in (*codec.start_ids, *codec.encode_text(text))]


def pieces(path: Path, step: int) -> list[str]:
    return [text for text, _ in Documents(path).pieces(step=step)]


def all_of(text: PretrainText) -> list[list[int]]:
    return [text.windows[i] for i in range(len(text.windows))]


# ---- which windows ----------------------------------------------------------------------------


def test_few_windows_come_from_all_of_the_text(tmp_path: Path, codec: Codec) -> None:
    """Of ten files the first alone would do, in windows of two or three words."""
    names = "abcdefghij"
    path = library(tmp_path / "text", **{n: MARKS.replace("w", n) for n in names})
    text = PretrainText(path, codec, 16, wanted=40, seed=0)
    assert len(text.windows) == 40
    seen = [codec.decode_text(window) for window in all_of(text)]
    found = [re.findall(r"([a-j])(\d{4})", one)[0] for one in seen]
    counts = [sum(name == one for one, _ in found) for name in names]
    assert min(counts) >= 1
    quarters = [int(number) // 500 for _, number in found]
    assert {0, 1, 2, 3} == set(quarters)


def test_a_window_is_a_stretch_of_the_text_from_a_whole_word_on(
    tmp_path: Path, codec: Codec
) -> None:
    path = library(tmp_path / "text", a=MARKS)
    text = PretrainText(path, codec, 16, wanted=20, seed=0)
    starts = [codec.decode_text(window) for window in all_of(text)]
    assert all(len(window) == 16 for window in all_of(text))
    assert all(re.match(r"w\d{4} ", start) and start in MARKS for start in starts)


def test_drawn_windows_do_not_overlap(tmp_path: Path, codec: Codec) -> None:
    """The text has 47 places of 256 bytes; 44 give windows of at least two words."""
    path = library(tmp_path / "text", a=MARKS)
    text = PretrainText(path, codec, 16, wanted=44, seed=0)
    assert len(text.windows) == 44
    words = [re.findall(r"w\d{4}", codec.decode_text(window)) for window in all_of(text)]
    flat = [word for one in words for word in one]
    assert len(flat) == len(set(flat)) > 88


def test_windows_are_a_function_of_the_seed(tmp_path: Path, codec: Codec) -> None:
    path = library(tmp_path / "text", a=MARKS, b=MARKS.replace("w", "v"))
    drawn = PretrainText(path, codec, 16, wanted=10, seed=7)
    assert PretrainText(path, codec, 16, wanted=10, seed=7).take(0, 25) == drawn.take(0, 25)
    assert all_of(PretrainText(path, codec, 16, wanted=10, seed=8)) != all_of(drawn)


def test_a_longer_run_begins_with_the_windows_of_a_shorter_one(
    tmp_path: Path, codec: Codec
) -> None:
    path = library(tmp_path / "text", a=MARKS, b=MARKS.replace("w", "v"))
    short = PretrainText(path, codec, 16, wanted=10, seed=7)
    assert PretrainText(path, codec, 16, wanted=40, seed=7).take(0, 10) == short.take(0, 10)
    again = [short.take(10 * number, 10) for number in range(3)]
    assert sorted(again[0]) == sorted(again[1]) == sorted(again[2])
    assert again[0] != again[1] != again[2]


@pytest.mark.slow
def test_every_process_has_the_same_windows_wherever_the_text_lies(
    tmp_path: Path, codec: Codec
) -> None:
    path = library(tmp_path / "text", a=MARKS, b=MARKS.replace("w", "v"))
    drawn = PretrainText(path, codec, 16, wanted=10, seed=7)
    path.rename(tmp_path / "elsewhere")
    program = (
        "import json, sys\n"
        "from trainer.pretrain_text import PretrainText\n"
        "from trainer.text import Codec\n"
        "text = PretrainText(sys.argv[1], Codec.load(sys.argv[2]), 16, wanted=10, seed=7)\n"
        "print(json.dumps(text.take(0, 25)))\n"
    )
    folder = codec.tokenizer.name_or_path
    other = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "elsewhere"), folder],
        env=os.environ | {"PYTHONHASHSEED": "5"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(other.stdout) == drawn.take(0, 25)


def test_another_seed_begins_its_windows_elsewhere(tmp_path: Path, codec: Codec) -> None:
    """Of the same places eight seeds would make 48 windows."""
    path = library(tmp_path / "text", a=MARKS)
    firsts = set()
    for seed in range(8):
        for window in all_of(PretrainText(path, codec, 16, wanted=44, seed=seed)):
            firsts.add(codec.decode_text(window)[:5])
    assert len(firsts) > 4 * 44


def test_only_the_places_that_are_drawn_are_encoded(
    tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library(tmp_path / "text", a=MARKS * 20)
    lengths: list[int] = []
    encode = Codec.encode_text

    def counted(self: Codec, text: str) -> list[int]:
        lengths.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(Codec, "encode_text", counted)
    PretrainText(path, codec, 16, wanted=10, seed=0)
    assert sum(lengths) < 12 * 256


@pytest.mark.parametrize("wanted", [60, 10_000])
def test_all_windows_are_there_where_places_are_too_few(
    tmp_path: Path, codec: Codec, wanted: int
) -> None:
    path = library(tmp_path / "text", a=MARKS, b="So it ended.")
    text = PretrainText(path, codec, 16, wanted=wanted, seed=3)
    ids = whole(codec, MARKS, "So it ended.")
    want = [ids[i : i + 16] for i in range(0, len(ids) - 15, 16)]
    assert len(want) > 300
    assert all_of(text) == want
    size = len(want)
    assert sorted(text.take(0, size)) == sorted(text.take(size, size)) == sorted(want)
    assert text.take(0, size) != text.take(size, size)
    assert text.take(size - 3, 7) == [*text.take(0, size)[-3:], *text.take(size, size)[:4]]


def test_places_that_hold_no_window_are_passed_over_or_all_is_read(
    tmp_path: Path, codec: Codec
) -> None:
    """Of some 87 places 40 are blank: ten windows are found in the others, eighty are not."""
    path = library(tmp_path / "text", a=" " * 40 * 256 + MARKS)
    text = PretrainText(path, codec, 16, wanted=10, seed=0)
    assert all("w" in codec.decode(window) for window in all_of(text))
    assert len(text.windows) == 10
    many = PretrainText(path, codec, 16, wanted=80, seed=0)
    assert len(many.windows) == len(Windows.of_text(TokenStream(path, codec, codec.start_ids), 16))


# ---- pieces -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [7, 64, 1000])
@pytest.mark.parametrize("arch", ["gpt2", "bert", "sentencepiece"])
def test_a_document_has_one_start_token_and_the_tokens_of_its_text_at_once(
    tmp_path: Path, arch: str, step: int
) -> None:
    tokenizer = build_tokenizer("bert" if arch == "bert" else "gpt2")
    if arch == "sentencepiece":  # a space of its own before every text
        tokenizer.backend_tokenizer.normalizer = normalizers.Prepend(" ")
    codec = Codec.of(tokenizer)
    path = library(tmp_path / "text", a=TEXT * 4, b=TEXT, c="One line\nand  two.")
    assert stream(path, codec, step) == whole(codec, TEXT * 4, TEXT, "One line\nand  two.")


def test_a_long_document_has_one_start_token(tmp_path: Path, codec: Codec) -> None:
    text = TEXT * 200
    assert len(text) > 2 << 16
    path = library(tmp_path / "text", a=text, b=text)
    assert stream(path, codec) == whole(codec, text, text)
    windows = Windows.of_text(TokenStream(path, codec, codec.start_ids), 32)
    starts = [i for i in range(len(windows)) if codec.start_ids[0] in windows[i]]
    assert len(starts) == 2


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1024, 5000])
@pytest.mark.parametrize(
    "text",
    [
        "日本語の文。" * 400,
        "a" * 3000 + "é" * 3000 + "🙂" * 1000,
        "Ünïcödé wörds, ünd möre. " * 90,
        "字は一行\r\n続く二行\r\n" * 70,
        " \n\t" * 900,
    ],
    ids=["no spaces", "no white space", "words", "lines", "blank"],
)
def test_pieces_put_together_are_the_text(tmp_path: Path, text: str, step: int) -> None:
    (tmp_path / "a.txt").write_text(text, newline="")
    found = pieces(tmp_path / "a.txt", step)
    assert "".join(found) == text.replace("\r\n", "\n")
    assert step > 5 or len(found) > 1


def test_a_cut_is_between_words_else_between_lines_else_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two  three\nfour five")
    assert pieces(path, 5) == ["one two  three\nfour", " five"]
    path.write_text("字" * 500 + "\n" + "字" * 500)
    assert [len(text) for text in pieces(path, 1000)] == [501, 500]
    path.write_text("字" * 1200)
    assert [len(text) for text in pieces(path, 1000)] == [334, 333, 533]


def test_places_of_a_text_share_it_out(tmp_path: Path) -> None:
    """Whatever the places are, each word and each document's begin is in one of them."""
    texts = {"a": MARKS[:600], "b": "", "c": "Short one.", "d": "Ends in é", "e": MARKS[600:1200]}
    documents = Documents(library(tmp_path / "text", **texts))
    assert documents.size == 600 + 10 + 10 + 600
    for size in (1, 3, 50, 333, 5000):
        found = [
            piece
            for start in range(-2, documents.size, size)
            for piece in documents.pieces(start, start + size, 20)
        ]
        assert "".join(text for text, _ in found) == "".join(texts.values())
        assert sum(begins for _, begins in found) == 4


def test_blank_pieces_have_no_tokens_and_take_no_start_token(tmp_path: Path, codec: Codec) -> None:
    path = library(tmp_path / "text", a=" \n" * 50, b="\n" * 20 + "It begins.", c="\n")
    assert stream(path, codec) == whole(codec, "\n" * 20 + "It begins.")
    (path / "b.txt").write_text("\n" * 3000 + "It begins.")
    assert stream(path, codec, step=1500) == whole(codec, "\n" * 1500 + "It begins.")


# ---- which files ------------------------------------------------------------------------------


def test_missing_and_empty_text_get_a_sentence(tmp_path: Path, codec: Codec) -> None:
    with pytest.raises(DataError, match="does not exist"):
        PretrainText(tmp_path / "nowhere", codec, 16, 10, 0)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        PretrainText(tmp_path / "empty.txt", codec, 16, 10, 0)


def test_a_file_that_is_named_is_read_whatever_its_name(tmp_path: Path, codec: Codec) -> None:
    for name in ("notes.rst", "a.csv", ".hidden"):
        (tmp_path / name).write_text(TEXT)
        text = TokenStream(tmp_path / name, codec, codec.start_ids)
        assert [token for ids in text.ids() for token in ids] == whole(codec, TEXT)
        assert text.notes == ()


def test_files_of_a_folder_that_are_not_read_are_told(tmp_path: Path, codec: Codec) -> None:
    path = library(tmp_path / "library", a="First.", b="Second.")
    for name in ("LICENSE", "c.md", "d.text"):
        (path / name).write_text(f"{name}.")
    for name in (".e.txt", ".git/f", "more/.g/h.txt"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("hidden")
    read = whole(codec, "LICENSE.", "First.", "Second.", "c.md.", "d.text.")
    assert stream(path, codec) == read
    assert Documents(path).notes == ()
    for name in ("more/z.rst", "x.pdf"):
        (path / name).write_text("other")
    assert stream(path, codec) == read
    are = " Files without a suffix, .txt, .text and .md are."
    assert PretrainText(path, codec, 4, 99, 0).notes == (
        f"Not read in the text folder library: more/z.rst, x.pdf.{are}",
    )
    for name in ("y.html", "y.jsonl"):
        (path / name).write_text("other")
    assert Documents(path).notes == (
        f"Not read in the text folder library: more/z.rst, x.pdf, y.html and 1 more.{are}",
    )


def test_a_folder_of_other_files_alone_gets_a_sentence(tmp_path: Path, codec: Codec) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"holds no text to learn from\. Not read .*: a\.jsonl\."):
        PretrainText(tmp_path, codec, 16, 10, 0)


def test_what_is_not_utf8_is_named(tmp_path: Path, codec: Codec) -> None:
    (tmp_path / "a.txt").write_bytes("Straße ".encode("latin-1") * 500)
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8 text"):
        PretrainText(tmp_path, codec, 16, 2, 0)
