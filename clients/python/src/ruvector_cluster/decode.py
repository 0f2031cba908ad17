"""From JSON to frozen dataclasses, checked: by the dataclass's own annotations.

A field that is missing or of another type is an error that names it. One that is unknown is kept in the dataclass's `extra`, so
that a newer control node does no harm. An Optional field may be missing. A name that ends in an
underscore, since Python has taken it (`from_`), stands without it on the wire.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping as AbstractMapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Callable, Hashable, Mapping, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Decoder = Callable[[Any], Any]

#: The annotation of the field that keeps what is unknown.
Extra = Mapping[str, Any]


def extra_field() -> Any:
    """The `extra` of a dataclass: neither shown nor compared."""
    return dataclasses.field(default_factory=dict, repr=False, compare=False)


def local(default: Any) -> Any:
    """A field that does not stand in the JSON, but is added by the client."""
    return dataclasses.field(default=default, metadata={"local": True})


class BadShape(Exception):
    """What does not fit; `path` leads to it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []

    def __str__(self) -> str:
        path = ".".join(reversed(self.path))
        return f"field `{path}`: {self.why}" if path else self.why

    def inside(self, step: str) -> BadShape:
        self.path.append(step)
        return self


def decode(kind: type[T], data: Any) -> T:
    """`data` as `kind`. Raises BadShape."""
    decoded: T = _decoder(cast(Hashable, kind))(data)
    return decoded


@lru_cache(maxsize=None)
def _decoder(kind: Any) -> Decoder:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind)
    if origin is Union:
        return _optional(_decoder(next(arg for arg in args if arg is not type(None))))
    if origin is tuple:
        return _items(_decoder(args[0]))
    if origin in (AbstractMapping, dict):
        return _values(_decoder(args[1]))
    return _PLAIN[kind]


def _of_dataclass(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name != "extra" and not field.metadata.get("local")]
    keeps_extra = any(field.name == "extra" for field in dataclasses.fields(kind))
    rows = [(field.name, field.name.rstrip("_"), _decoder(hints[field.name])) for field in fields]
    known = frozenset(name for _, name, _ in rows)
    missing = {field.name: _if_missing(field, hints[field.name]) for field in fields}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise BadShape(f"an object was expected, not {_shown(value)}")
        given: dict[str, Any] = {}
        for attribute, name, decoder in rows:
            if name in value:
                try:
                    given[attribute] = decoder(value[name])
                except BadShape as error:
                    raise error.inside(name) from None
            else:
                given[attribute] = missing[attribute]
                if given[attribute] is dataclasses.MISSING:
                    raise BadShape("is missing").inside(name)
        if keeps_extra and len(value) > len(rows):
            given["extra"] = {name: value[name] for name in value if name not in known}
        return kind(**given)

    return read


def _if_missing(field: dataclasses.Field[Any], hint: Any) -> Any:
    """What stands for a field that is not there; MISSING where it has to be."""
    is_optional = get_origin(hint) is Union
    return None if field.default is dataclasses.MISSING and is_optional else field.default


def _optional(inner: Decoder) -> Decoder:
    return lambda value: None if value is None else inner(value)


def _items(inner: Decoder) -> Decoder:
    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise BadShape(f"a list was expected, not {_shown(value)}")
        items = []
        try:
            for item in value:
                items.append(inner(item))
        except BadShape as error:
            raise error.inside(str(len(items))) from None
        return tuple(items)

    return read


def _values(inner: Decoder) -> Decoder:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise BadShape(f"an object was expected, not {_shown(value)}")
        items = {}
        for name, item in value.items():
            try:
                items[name] = inner(item)
            except BadShape as error:
                raise error.inside(name) from None
        return items

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadShape(f"a string was expected, not {_shown(value)}")
    return value


def _integer(value: Any) -> int:
    # True is an int in Python, and none in JSON.
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadShape(f"an integer was expected, not {_shown(value)}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadShape(f"a number was expected, not {_shown(value)}")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadShape(f"true or false was expected, not {_shown(value)}")
    return value


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)", re.ASCII)


def _time(value: Any) -> datetime:
    """RFC 3339 in UTC, as the API has all times; finer than microseconds is cut off."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadShape(f"a time in UTC was expected, not {_shown(value)}")
    try:
        second = datetime.fromisoformat(match[1])
    except ValueError:
        raise BadShape(f"a time in UTC was expected, not {_shown(value)}") from None
    microsecond = int((match[2] or "0")[:6].ljust(6, "0"))
    return second.replace(microsecond=microsecond, tzinfo=timezone.utc)


_PLAIN: Mapping[Any, Decoder] = {str: _text, int: _integer, float: _number, bool: _truth, datetime: _time}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
