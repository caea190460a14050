"""Reads the columns of manifests and of Parquet files, whatever their spelling and type.

Known columns are recognised in any case and with white space around the name. Values become text as
people write them: 3 is ``3`` even if a null in the column turned it into a column of floats.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.config import Limits
from steel_batch.errors import InputError
from steel_batch.sources.arrays import numbers_in
from steel_batch.sources.dates import read_date

_AROUND: Final = " \t\r\n\v\f\0\u00a0\u200b\ufeff"
"""White space, including zero-width characters, and byte order marks."""
_EXACT: Final = 2**53
"""From here on, a float stands for several integers."""
_MAX_BYTES: Final = 2**63 - 1
_SHOWN_CHARACTERS: Final = 60


class BadValueError(Exception):
    """A value that its column must not hold.

    Args:
        what: A phrase such as "holds 16 bytes that are not UTF-8 text".
        index: Its index among the values that were converted.
    """

    def __init__(self, what: str, index: int = 0) -> None:
        super().__init__(what)
        self.what, self.index = what, index


def column_names(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Normalise column names: known ones in any case, others without surrounding white space.

    Args:
        names: The names in the file.
        known: Names with a meaning, in lower case with '_' between words.

    Returns:
        One name per column; '' for a column without one.
    """
    meant = {_folded(name): name for name in known}
    plain = [name.strip(_AROUND) for name in names]
    return [meant.get(_folded(name), name) for name in plain]


def _folded(name: str) -> str:
    """The common form of `image_id`, `Image ID` and `ImageId`."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def refuse_repeated(names: Sequence[str], written: Sequence[str]) -> None:
    """Refuse two columns of the same name, as the values of one would be lost.

    Args:
        names: Result of `column_names`, with '' for columns that may share a name.
        written: The same columns as spelled in the file.

    Raises:
        InputError: Two columns share a name; the message shows both.
    """
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        if name and first.setdefault(name, i) != i:
            a, b = first[name], i
            raise InputError(
                f"its columns {a + 1} and {b + 1} are both {name!r} (written {written[a]!r} and "
                f"{written[b]!r}): rename or remove one of them."
            )


def type_of(kind: pa.DataType) -> str:
    """A type for messages, shortened."""
    text = str(kind)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def shown(value: Any) -> str:
    """A value for messages, shortened; bytes are only counted."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value):,} bytes"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text, also if they are dictionary-encoded."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def values(array: pa.Array) -> list[Any]:
    """A column's values as Python objects, with bytes decoded as UTF-8.

    Times are truncated to microseconds.

    Raises:
        BadValueError: Bytes are not UTF-8.
    """
    kind = array.type
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_time64(kind):
        array = array.cast(pa.time64("us"), safe=False)
    elif pa.types.is_duration(kind):
        array = array.cast(pa.duration("us"), safe=False)
    found: list[Any] = array.to_pylist()
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        shortest = np.float32 if pa.types.is_float32(kind) else np.float16
        found = [None if value is None else float(str(shortest(value))) for value in found]
    for i, value in enumerate(found):
        if isinstance(value, bytes):
            try:
                found[i] = text_of(value)
            except BadValueError as error:
                raise BadValueError(error.what, i) from None
    return found


def texts(array: pa.Array) -> list[str | None]:
    """A column's values as text.

    Raises:
        BadValueError: A value cannot be text.
    """
    if is_text(array.type):
        plain: list[str | None] = array.to_pylist()
        return plain
    found = []
    for i, value in enumerate(values(array)):
        try:
            found.append(text_of(value))
        except BadValueError as error:
            raise BadValueError(error.what, i) from None
    return found


def text_of(value: Any) -> str | None:
    """One value as text: integers without a fraction, bytes decoded as UTF-8.

    Raises:
        BadValueError: It is a list or record, bytes that are not UTF-8, or a float that does not
            hold an exact integer.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise BadValueError(f"holds {len(value):,} bytes that are not UTF-8 text") from None
    if isinstance(value, float):
        return _text_of_float(value)
    if isinstance(value, decimal.Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, (int, datetime.date, datetime.time, datetime.timedelta, uuid.UUID)):
        return str(value)
    raise BadValueError(f"holds {shown(value)}, expected text or a number")


def _text_of_float(value: float) -> str | None:
    if np.isnan(value):
        return None
    if not value.is_integer():
        return str(value)
    if abs(value) >= _EXACT:
        raise BadValueError(
            f"holds the float {value!r}, which stands for several integers: store the column as "
            "text or as integers"
        )
    return str(int(value))


def check_texts(array: pa.Array, limits: Limits) -> None:
    """Refuse text that is too long, and too many tags, before they become Python's objects.

    Args:
        array: A column of a file.
        limits: Their `text_bytes` and `tags` count.

    Raises:
        BadValueError: It holds some.
    """
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        check_texts(array.storage, limits)
    elif pa.types.is_dictionary(kind):
        check_texts(array.dictionary, limits)
    elif pa.types.is_struct(kind):
        _check_number(kind.num_fields, limits)
        for child in array.flatten():
            check_texts(child, limits)
    elif pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        longest = int(np.diff(numbers_in(array.offsets)).max(initial=0))
        _check_number(longest, limits)
        for child in (array.keys, array.items) if pa.types.is_map(kind) else (array.values,):
            check_texts(child, limits)
    elif _has_length(kind):
        lengths = pc.binary_length(array.cast(pa.large_binary()))
        longest = pc.max(lengths).as_py() or 0
        if longest > limits.text_bytes:
            place = pc.index(lengths, longest).as_py()
            raise BadValueError(
                f"holds {longest:,} bytes, at most {limits.text_bytes:,} are read (limit "
                "text-bytes)",
                place,
            )


def _check_number(num_tags: int, limits: Limits) -> None:
    if num_tags > limits.tags:
        raise BadValueError(
            f"holds {num_tags:,} tags, at most {limits.tags:,} are read (limit tags)"
        )


def _has_length(kind: pa.DataType) -> bool:
    return bool(is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def date_from(value: Any) -> str:
    """Parse one value as a date, YYYY-MM-DD.

    Raises:
        BadValueError: It is not a valid date in a spelling of `sources.dates`.
    """
    if isinstance(value, datetime.datetime):
        value = value.date()
    date = read_date(text_of(value) or "")
    if date is None:
        raise BadValueError(f"holds {shown(value)}")
    return date


def size_from(value: Any) -> int:
    """Parse one value as a number of bytes.

    Raises:
        BadValueError: It is not an integer of 0 or more, or more than 64 bits hold.
    """
    if type(value) is int:
        size = value
    else:
        text = "" if isinstance(value, bool) else (text_of(value) or "").strip()
        match = re.fullmatch(r"0*([0-9]{1,19})(?:\.0*)?", text)
        size = -1 if match is None else int(match[1])
    if not 0 <= size <= _MAX_BYTES:
        raise BadValueError(f"holds {shown(value)}")
    return size


def tags_from(array: pa.Array) -> list[dict[str, str]]:
    """The tags of each row, from a map, a list of (key, value) records, or one record.

    Raises:
        InputError: The column has another type.
        BadValueError: A tag has two values, or one that is not text.
    """
    kind = array.type
    if pa.types.is_map(kind):
        names, found, edges = array.keys, array.items, array.offsets
    elif _is_pairs(kind):
        records = array.values
        (names, found), edges = records.flatten(), array.offsets
    elif pa.types.is_struct(kind):
        fields = [(f.name, texts(c)) for f, c in zip(kind, array.flatten(), strict=True)]
        return [
            {name: value for name, column in fields if (value := column[i]) is not None}
            for i in range(len(array))
        ]
    else:
        raise InputError(
            f"its column 'tags' is {type_of(kind)}, expected a map of names to text: store it as "
            "one, or rename the column."
        )
    ends = edges.to_pylist()
    _refuse_nested(found.type)
    names, found = texts(names), texts(found)
    tags = []
    for i, is_there in enumerate(array.is_valid().to_pylist()):
        row: dict[str, str] = {}
        for j in range(ends[i], ends[i + 1]) if is_there else ():
            name, value = names[j], found[j]
            if name is None or value is None:
                continue
            if row.setdefault(name, value) != value:
                raise BadValueError(f"has two values for the tag {name!r}", i)
        tags.append(row)
    return tags


def _is_pairs(kind: pa.DataType) -> bool:
    """Whether a list's items are key-value records, as written by libraries without maps."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    return pa.types.is_struct(item) and [f.name for f in item] in (["key", "value"], ["k", "v"])


def _refuse_nested(kind: pa.DataType) -> None:
    if pa.types.is_nested(kind):
        raise InputError(
            f"its column 'tags' has values of {type_of(kind)}, expected text: store them as text, "
            "or rename the column."
        )
