"""JSON as it comes in: nothing that the database could not hold gets further than here."""

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


class StorableJSONParser(JSONParser):
    """JSON whose texts hold no NUL and no half of a surrogate pair; else a 400 that says so."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            data = super().parse(stream, media_type, parser_context)
            whole = storable(data)
        except RecursionError:
            raise ParseError("This is nested too deeply.") from None
        if not whole:
            raise ParseError("A text here holds a NUL or half a character; take it out.")
        return data


def storable(data: Any) -> bool:
    """Whether all texts in ``data``, keys among them, can be stored."""
    if isinstance(data, str):
        return "\x00" not in data and not any("\ud800" <= c <= "\udfff" for c in data)
    if isinstance(data, dict):
        return all(storable(each) for pair in data.items() for each in pair)
    return not isinstance(data, list) or all(map(storable, data))
