"""Markdown of models and people, made safe: rendered here, then held against an allow-list.

What comes in is hostile. Raw HTML is shown as text, links may only lead to http, https and mailto and carry
``rel="noopener nofollow"``, and nothing is ever loaded from elsewhere: there are no images.
"""

import re
from typing import Any

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

DEEPEST = 30
"""Levels of lists and quotes; the parser drops what is deeper, so such a text is shown as it is too."""

_HEADING = re.compile(r"<(/?)h([1-6])>")
_parser = (
    MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": DEEPEST})
    .enable(["table", "strikethrough"])
    .disable(["image"])
)


def render(text: str) -> SafeString:
    """Sanitised HTML of ``text``. Headings step down two levels, since the page has its own."""
    env: dict[str, Any] = {}
    tokens = _parser.parse(text, env) if len(text) <= LONGEST else None
    if tokens is None or any(token.level >= DEEPEST - 1 for token in tokens):
        return format_html('<p class="plain">{}</p>', text)
    html = _parser.renderer.render(tokens, _parser.options, env)
    stepped = _HEADING.sub(lambda m: f"<{m[1]}h{min(int(m[2]) + 2, 6)}>", html)
    return mark_safe(
        nh3.clean(
            stepped,
            tags=TAGS,
            attributes=ATTRIBUTES,
            url_schemes=SCHEMES,
            link_rel="noopener nofollow",
        )
    )
