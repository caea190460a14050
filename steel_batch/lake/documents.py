"""JSON documents of a store, read strictly: every value must have the expected type.

Whoever can write to a store can write anything under a document's name. A value of another type
would surface far from here, as another library's error or as a wrong row. So types are compared
with the annotations of the dataclass that the document is read as.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from steel_batch.errors import MissingObjectError
from steel_batch.lake.lake import Lake

T = TypeVar("T")

MAX_BYTES: Final = 64 << 20
"""Limit of a document; a receipt with thousands of bad images has some megabytes."""
_GREATEST: Final = 1 << 63


def read_document(lake: Lake, key: str, *, max_bytes: int = MAX_BYTES) -> bytes | None:
    """Read a document's bytes; None if it does not exist.

    Raises:
        LargeObjectError: It has more than `max_bytes`.
    """
    try:
        return lake.read(key, max_bytes=max_bytes)
    except MissingObjectError:
        return None


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def record_of(kind: type[T], raw: Any) -> T:
    """Create an object of a dataclass from parsed JSON.

    Args:
        kind: The dataclass. Its fields are numbers, text, booleans, None, lists of them as tuples,
            mappings, other such dataclasses, or anything (`Any`).
        raw: The result of `parse_json`.

    Raises:
        ValueError: A field is missing, unknown, or not of its type; the message names it.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"it is {_name(raw)}, not an object")
    hints = _hints(cast(Any, kind))
    unknown = sorted(str(name) for name in raw if name not in hints)
    if unknown:
        raise ValueError(f"it has the unknown field {unknown[0]!r}")
    given = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in raw:
            given[field.name] = _value(hints[field.name], raw[field.name], field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"it has no {field.name!r}")
    return kind(**given)


def list_of(kind: type[T], raw: Any) -> list[T]:
    """Create a list of objects of a dataclass, or of strings; see `record_of`.

    Raises:
        ValueError: It is not such a list.
    """
    if not isinstance(raw, list):
        raise ValueError(f"it is {_name(raw)}, not a list")
    return [_value(kind, item, "item") for item in raw]


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(kind: Any, raw: Any, name: str) -> Any:
    """Return a field's value, checked against its annotated type."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return raw
    if origin in (Union, types.UnionType):
        if raw is None and type(None) in parts:
            return None
        (kind,) = (part for part in parts if part is not type(None))
        return _value(kind, raw, name)
    if origin is Literal:
        if raw in parts:
            return raw
    elif origin is tuple and isinstance(raw, list):
        kinds = [parts[0]] * len(raw) if parts[-1] is Ellipsis else parts
        if len(kinds) == len(raw):
            return tuple(_value(each, item, name) for each, item in zip(kinds, raw, strict=True))
    elif origin in (dict, Mapping) and isinstance(raw, dict):
        return {key: _value(parts[1], value, name) for key, value in raw.items()}
    elif dataclasses.is_dataclass(kind) and isinstance(raw, dict):
        return record_of(kind, raw)  # type: ignore[arg-type]
    elif kind is float and type(raw) in (int, float):
        number = float(raw) if abs(raw) < _GREATEST else math.inf
        if math.isfinite(number):
            return number
    elif kind is int and type(raw) is int:
        if -_GREATEST <= raw < _GREATEST:
            return raw
    elif kind is str and isinstance(raw, str):
        try:
            raw.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name!r} is text that is not Unicode") from None
        return raw
    elif kind is bool and isinstance(raw, bool):
        return raw
    raise ValueError(f"{name!r} is {_name(raw)}, expected {_expected(kind)}")


def _name(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _expected(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    default = "a list" if get_origin(kind) is tuple else "an object"
    return names.get(kind, default)
