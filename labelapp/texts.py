"""What text the database can hold."""

from typing import Any


def storable(data: Any) -> bool:
    """Whether all texts in ``data``, keys among them, can be stored: no NUL, no half of a pair."""
    if isinstance(data, str):
        return "\x00" not in data and not any("\ud800" <= c <= "\udfff" for c in data)
    if isinstance(data, dict):
        return all(storable(each) for pair in data.items() for each in pair)
    return not isinstance(data, list) or all(map(storable, data))
