"""Markdown of models and people, made safe: rendered here, then held against an allow-list.

What comes in is hostile. Raw HTML is shown as text, links may only lead to http, https and mailto and carry
``rel="noopener nofollow"``, and nothing is ever loaded from elsewhere: there are no images.
"""

import re

import nh3
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

TAGS = {
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
}
ATTRIBUTES = {"a": {"href"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}
LONGEST = 200_000
"""Characters; what is longer is shown as it is, unrendered."""

_HEADING = re.compile(r"<(/?)h([1-6])>")
_parser = (
    MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 30})
    .enable(["table", "strikethrough"])
    .disable(["image"])
)


def render(text: str) -> SafeString:
    """Sanitised HTML of ``text``. Headings step down two levels, since the page has its own."""
    if len(text) > LONGEST:
        return format_html("<pre>{}</pre>", text)
    html = _HEADING.sub(lambda m: f"<{m[1]}h{min(int(m[2]) + 2, 6)}>", _parser.render(text))
    return mark_safe(
        nh3.clean(
            html,
            tags=TAGS,
            attributes=ATTRIBUTES,
            url_schemes=SCHEMES,
            link_rel="noopener nofollow",
        )
    )
