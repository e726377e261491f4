"""Every address of the product by its name: which ones are pages, in the order in which a newcomer meets them."""

from collections.abc import Iterator
from uuid import UUID

from django.urls import URLPattern, URLResolver, get_resolver

DOOR = ("sign-in", "invite", "password-reset", "home", "account", "password-change")
LABELER = ("work", "task", "live", "history", "history-label")
ADMIN = (
    *("rounds", "round-new", "round", "training", "models", "model", "prompts", "upload"),
    *("upload-preview", "instructions", "instructions-version", "concerns", "people", "data"),
)
RESEARCHER = ("rounds", "round", "training", "models", "model", "data")
PAGES = (*DOOR, *LABELER, *ADMIN)

NO_PAGES = {
    "healthz": "for monitors",
    "readyz": "for monitors",
    "project": "leads on to the first page of one's role",
    "task-difference": "a part of the ranking page",
    "round-new-counts": "a part of the page that opens a round",
    "round-live": "a part of the round's page",
    "round-labels": "figures of the round's chart",
    "training-live": "a part of the training's page",
    "export": "a file; refused, it is a page",
}
"""What answers a GET and is no page of its own, each with what it is instead."""


def addresses(api: bool = False) -> Iterator[str]:
    """The names of all addresses outside the API."""

    def walk(patterns: list[URLPattern | URLResolver]) -> Iterator[str]:
        for pattern in patterns:
            if isinstance(pattern, URLPattern):
                assert pattern.name, f"{pattern} has no name"
                yield pattern.name
            elif api or str(pattern.pattern) != "api/":
                yield from walk(pattern.url_patterns)

    return walk(get_resolver().url_patterns)


def parts(name: str) -> dict[str, object]:
    """Values that fit the address: of the project ``garden``, numbers 1, and a made-up id."""
    made_up: dict[str, object] = {"int": 1, "slug": "garden", "uuid": UUID(int=1), "str": "none"}
    for _possibility, pattern, _defaults, converters in get_resolver().reverse_dict.getlist(name):
        assert pattern
        return {
            key: made_up[type(each).__name__.removesuffix("Converter").lower()]
            for key, each in converters.items()
        }
    raise AssertionError(f"there is no address {name}")


def route(name: str) -> str:
    """The address as a reader sees it, with an ellipsis for what varies: ``/p/…/rounds/…/``."""
    ((template, keys),) = next(iter(get_resolver().reverse_dict.getlist(name)))[0]
    return "/" + template % dict.fromkeys(keys, "…")
