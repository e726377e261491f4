"""Markdown of models and people: what is shown, and what never gets through."""

import re

import pytest

from labelapp.markdown import LONGEST, render

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "![pixel](https://tracker.example/pixel.png)",
    '<iframe src="https://evil.example"></iframe>',
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "<a href='vbscript:x'>x</a>",
    "<svg/onload=alert(1)>",
    '<p style="position:fixed;inset:0">over everything</p>',
    "<style>body{display:none}</style>",
    '<form action="https://evil.example"><input name="password"></form>',
    "<base href='https://evil.example'>",
    "`<script>`",
    "```html\n<script>alert(1)</script>\n```",
    '[x](https://a.example/"onmouseover="alert(1))',
    "<<script>script>alert(1)<</script>/script>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_element_and_no_attribute_of_its_own(text: str) -> None:
    html = render(text)
    tags = re.findall(r"<\s*([a-zA-Z0-9]+)((?:\"[^\"]*\"|'[^']*'|[^>\"'])*)>", html)
    for name, attributes in tags:
        assert name.lower() in {"p", "code", "pre", "a", "br", "em"}
        names = set(re.findall(r"([a-zA-Z-]+)\s*=", re.sub(r'"[^"]*"', '""', attributes)))
        assert names <= {"href", "rel"}
    for href in re.findall(r'href="([^"]*)"', html):
        assert href.startswith(("https://", "http://", "mailto:"))


def test_what_people_write_in_markdown_is_rendered() -> None:
    html = render(
        "A **bold** word\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n~~gone~~"
    )
    assert "<strong>bold</strong>" in html
    assert "<ol>" in html
    assert "<td>1</td>" in html
    assert "<s>gone</s>" in html


def test_a_single_line_break_is_kept() -> None:
    assert render("one\ntwo") == "<p>one<br>\ntwo</p>\n"


def test_headings_step_below_those_of_the_page() -> None:
    assert render("# Title\n\n##### Deep") == "<h3>Title</h3>\n<h6>Deep</h6>\n"


def test_links_tell_nothing_and_lead_no_robot() -> None:
    assert render("[site](https://a.example)") == (
        '<p><a href="https://a.example" rel="noopener nofollow">site</a></p>\n'
    )


@pytest.mark.parametrize("depth", [5, 29, 30, 31, 500])
def test_no_depth_of_quotes_hides_the_text(depth: int) -> None:
    assert "deep" in render("> " * depth + "deep")


@pytest.mark.parametrize("depth", [3, 14, 16, 60])
def test_no_depth_of_lists_hides_the_text(depth: int) -> None:
    assert "deep" in render(
        "\n".join(
            "  " * i + "- deep" * (i == depth - 1) + "- x" * (i < depth - 1) for i in range(depth)
        )
    )


def test_a_text_beyond_all_measure_is_shown_as_it_is() -> None:
    html = render("<b>" + "x" * LONGEST)
    assert html.startswith('<p class="plain">&lt;b&gt;xxx')
