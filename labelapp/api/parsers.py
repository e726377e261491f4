"""JSON as it comes in: nothing that the database could not hold gets further than here."""

from collections.abc import Mapping
from typing import IO, Any

from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from labelapp.texts import storable


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
            raise ParseError(_("This is nested too deeply.")) from None
        if not whole:
            raise ParseError(_("A text here holds a NUL or half a character; take it out."))
        return data
