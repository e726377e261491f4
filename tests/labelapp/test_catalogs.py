"""Every string that a person reads is marked, and every marked one is in each catalog, translated."""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

import polib
import pytest
from django.conf import settings

from labelapp import catalogs, errors
from labelapp.catalogs import Message
from labelapp.checks import languages_are_compiled

ROOT = Path(catalogs.__file__).resolve().parents[1]
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
AS_THEY_ARE = {
    "labelapp",
    "Ctrl",
    "Ctrl U",
    "Ctrl Z",
    "Ctrl B",
    "Ctrl I",
    "Ctrl E",
    "Esc",
    "SHA-256",
}
"""What stands in templates and is the same in every language; keys.js writes Ctrl as it is written on the keyboard."""
WITHOUT_READERS = ("simulation", "services/simulated.py", "services/demo.py", "trainer_gateway.py")
"""Where errors are told to workers and on the command line: those stay English."""
_CODE = re.compile(
    r"<(pre|code|kbd|svg)\b.*?</\1>|<(?:dt|span)[^>]* class=\"mono\".*?</(?:dt|span)>", re.DOTALL
)
_BLOCK = re.compile(r"{%\s*blocktranslate.*?{%\s*endblocktranslate\s*%}", re.DOTALL)
_CLASS = re.compile(r"({% block \w+_class %}).*?({% endblock %})")
_TAG = re.compile(r"{%.*?%}|{{.*?}}|{#.*?#}", re.DOTALL)
_READ_ALOUD = re.compile(r'\b(?:aria-label|title|placeholder|alt|content-label)="([^"]*)"')
_WORD = re.compile(r"[A-Za-z]{2,}")


def texts(template: str) -> Iterator[str]:
    """What a template says by itself: between the tags, and in attributes that are read aloud."""
    said = _TAG.sub("\x00", _BLOCK.sub("\x00", _CLASS.sub(r"\1\2", _CODE.sub(" ", template))))
    yield from _READ_ALOUD.findall(said)
    yield from re.split(r"<[^>]*>|\x00", said)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_a_template_says_nothing_by_itself(file: Path) -> None:
    said = {html.unescape(text).strip(" \n·,.:()") for text in texts(file.read_text())}
    assert {text for text in said if _WORD.search(text)} <= AS_THEY_ARE


def test_a_sentence_in_a_template_is_found() -> None:
    assert "Hello there" in list(texts('{% if a %}<p id="x">Hello there</p>{% endif %}'))
    assert "Close it" in list(texts('<a aria-label="Close it">{% translate "Close" %}</a>'))


def errors_told(source: str) -> Iterator[ast.expr]:
    """What the errors of labelapp are raised with."""
    names = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names - {"TrainerFailed"}:
            yield from node.args
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Dict):
                    yield from keyword.value.values


def test_no_error_is_raised_in_plain_english() -> None:
    for file in sorted((ROOT / "labelapp").rglob("*.py")):
        name = str(file.relative_to(ROOT / "labelapp"))
        if name.startswith(WITHOUT_READERS):
            continue
        source = file.read_text()
        for told in errors_told(source) if "labelapp.errors" in source else ():
            assert not isinstance(told, ast.Constant | ast.JoinedStr), f"{name}:{told.lineno}"


def test_scripts_say_nothing_by_themselves() -> None:
    sentence = re.compile(r"""(["'`])([A-Z][a-z]+ [a-z][^"'`]*)\1""")
    for file in (ROOT / "static" / "js").glob("*.js"):
        source = re.sub(r"/\*.*?\*/|(?<!:)//[^\n]*", "", file.read_text(), flags=re.DOTALL)
        assert not sentence.findall(source), file.name


def test_strings_are_found_however_they_are_marked() -> None:
    python = (
        'x = _("One" " two") + ngettext("%(n)s cat", "%(n)s cats", 2) + pgettext("verb", "Open")'
    )
    assert set(catalogs._in_python(python)) == {
        Message("One two"),
        Message("%(n)s cat", "%(n)s cats"),
        Message("Open", context="verb"),
    }
    template = """{% load i18n %}{% translate "It's" %}{% blocktranslate count n=a trimmed %}
      one {{ n }}{% plural %}many {{ n }}{% endblocktranslate %}"""
    assert set(catalogs._in_template(catalogs.templatize(template))) == {
        Message("It's"),
        Message("one %(n)s", "many %(n)s"),
    }


def test_every_language_but_english_has_a_catalog() -> None:
    found = {file.parents[1].name for file in catalogs.catalogs()}
    assert found | {"en"} == set(dict(settings.LANGUAGES))


@pytest.mark.parametrize("file", catalogs.catalogs(), ids=lambda file: file.parents[1].name)
def test_a_catalog_is_complete(file: Path) -> None:
    assert not catalogs.problems(file), "see docs/translating.md"


def test_a_new_lost_or_unsure_string_is_told(tmp_path: Path, monkeypatch) -> None:
    wanted = {
        Message("Hello {name}"),
        Message("Bye"),
        Message("New"),
        Message("%(n)s cat", "%(n)s cats"),
    }
    monkeypatch.setattr(catalogs, "messages", lambda: wanted)
    file = tmp_path / "django.po"
    catalog = polib.POFile()
    catalog.append(polib.POEntry(msgid="Hello {name}", msgstr="Hallo {nam}"))
    catalog.append(polib.POEntry(msgid="Bye", msgstr="Tschüss", flags=["fuzzy"]))
    catalog.append(polib.POEntry(msgid="Old", msgstr="Alt"))
    plural = {0: "eine Katze", 1: "Katzen"}
    catalog.append(
        polib.POEntry(msgid="%(n)s cat", msgid_plural="%(n)s cats", msgstr_plural=plural)
    )
    catalog.save(str(file))
    assert catalogs.problems(file) == [
        "lost placeholder: %(n)s cat",
        "fuzzy: Bye",
        "unknown placeholder: Hello {name}",
        "not translated: New",
        "no longer used: Old",
    ]


def test_what_is_translated_stays_when_the_sources_change(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    file = tmp_path / "de" / "LC_MESSAGES" / "django.po"
    file.parent.mkdir(parents=True)
    catalog = polib.POFile()
    catalog.append(polib.POEntry(msgid="Gone", msgstr="Weg"))
    catalog.append(polib.POEntry(msgid="Kept", msgstr="Geblieben"))
    catalog.append(polib.POEntry(msgid="Kept", msgstr=""))
    catalog.save(str(file))
    monkeypatch.setattr(catalogs, "ROOT", tmp_path)
    monkeypatch.setattr(catalogs, "LOCALE", tmp_path)
    monkeypatch.setattr(catalogs, "messages", lambda: {Message("Kept"), Message("Fresh")})
    catalogs.collect()
    assert [(each.msgid, each.msgstr) for each in polib.pofile(str(file))] == [
        ("Fresh", ""),
        ("Kept", "Geblieben"),
    ]
    assert "1 left to translate" in capsys.readouterr().out
    assert catalogs.stale() == [file]
    (error,) = languages_are_compiled()
    assert error.id == "labelapp.E021" and "make install" in str(error.hint)
    catalogs.compile_stale()
    assert catalogs.stale() == []
    assert polib.mofile(str(file.with_suffix(".mo")))[0].msgstr == "Geblieben"
