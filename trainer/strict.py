"""Plain data to frozen dataclasses and back, refusing what does not fit.

Standard library only, so that the web side can import it for nothing.
"""

import dataclasses
import functools
import json
import types
import typing
from typing import Any, TypeVar, Union, get_args, get_origin

from trainer.errors import TrainerError

T = TypeVar("T")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any, where: str, error: type[TrainerError]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _convert(value, inner, where, error)
    if origin is typing.Literal:
        if value not in args:
            raise error(f"{where} is {value!r}; it must be one of {', '.join(map(repr, args))}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise error(f"{where} is {value!r}; it must be a list.")
        return tuple(_convert(v, args[0], f"{where}[{i}]", error) for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise error(f"{where} is {value!r}; it must be an object.")
        return {
            _convert(k, args[0], f"a key of {where}", error): _convert(
                v, args[1], f"{where}.{k}", error
            )
            for k, v in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where=where, error=error)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise error(f"{where} is a number that is too large.") from None
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise error(f"{where} is {value!r}; it must be of type {hint.__name__}.")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can say half of a surrogate pair
            raise error(f"{where} is {value!r}; half a character is no text.") from None
    return value


def from_plain(cls: type[T], plain: Any, *, where: str, error: type[TrainerError]) -> T:
    """Build the dataclass ``cls`` from what ``json.loads`` gave.

    Raises ``error``, naming ``where`` and the field, on an unknown key, a missing one without
    default, or a value of the wrong type.
    """
    if not isinstance(plain, dict):
        raise error(f"{where} must be an object with named fields, not {type(plain).__name__}.")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(plain) - set(fields))
    if unknown:
        raise error(f"{where} has the unknown field {unknown[0]!r}; known are {', '.join(fields)}.")
    hints, values = _hints(typing.cast(Any, cls)), {}
    for name, field in fields.items():
        if name in plain:
            values[name] = _convert(plain[name], hints[name], f"{where}.{name}", error)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(f"{where} lacks the field {name!r}.")
    return cls(**values)


def from_json(cls: type[T], data: bytes, *, where: str, error: type[TrainerError]) -> T:
    """Build the dataclass ``cls`` from JSON in UTF-8; ``error``, naming ``where``, if it is not that."""
    try:
        plain = parsed(data, where=where, error=error)
        return from_plain(cls, plain, where=where, error=error)
    except RecursionError:
        raise error(f"{where} is nested too deeply.") from None


def parsed(data: bytes, *, where: str, error: type[TrainerError]) -> Any:
    """JSON in UTF-8; ``error``, naming ``where``, if it is not that."""
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise error(f"{where} is nested too deeply.") from None
    except UnicodeDecodeError as wrong:
        raise error(f"{where} is not UTF-8 text (byte {wrong.start}).") from None
    except json.JSONDecodeError as wrong:
        line = f" at line {wrong.lineno}" if wrong.lineno > 1 else ""
        raise error(f"{where} is not JSON: {wrong.msg}{line}.") from None
    except ValueError:  # Python reads no whole number of thousands of digits
        raise error(f"{where} has a number that is too large.") from None


def to_plain(record: Any) -> dict[str, Any]:
    """The dataclass as JSON-ready data, every field written, null included."""
    return dataclasses.asdict(record)
