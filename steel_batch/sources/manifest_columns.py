"""The rows of a manifest as Arrow columns, and what their values mean.

A value means what `columns` says that it means, one by one. Here the common types and spellings of
a whole column are read at once. Values of others are marked as odd, and decided one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.sources.arrays import flags_in, numbers_in, of_numbers, of_texts, scalar_of
from steel_batch.sources.columns import (
    BadValueError,
    date_from,
    is_text,
    tags_from,
    texts,
    values,
)
from steel_batch.sources.key_columns import tag_maps

KNOWN_COLUMNS: Final = ("key", "size", "etag", "line", "date", "image_id")
"""Columns with a meaning; every other column becomes a tag."""
_EXACT: Final = {pa.float64(): 2**53, pa.float32(): 2**24, pa.float16(): 2**11}
"""From here on, a float stands for several integers."""

_EMPTY: Final = scalar_of("")
_NO: Final = scalar_of(False)

Row = dict[str, Any]
"""A row of a manifest, by column name."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Some rows of a manifest, in their order.

    Args:
        columns: By their normalised names; `column_of` has checked each.
        num_rows: Their number.
    """

    columns: dict[str, pa.Array]
    num_rows: int

    def rows(self, places: npt.NDArray[np.int64]) -> list[Row]:
        """Some of the rows, with keys, sizes and dates as stored, and everything else as text."""
        taken = of_numbers(places)
        found = [_converted(name, column.take(taken)) for name, column in self.columns.items()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*found, strict=True)]


def column_of(name: str, array: pa.Array) -> pa.Array:
    """A column whose values can all be converted: keys, sizes and dates as stored, others as text.

    Args:
        name: Its normalised name.
        array: Its values in the file.

    Raises:
        BadValueError: A value cannot be converted.
        InputError: Tags have a type that is none.
        ValueError: Text is not UTF-8.
    """
    if name == "tags" and pa.types.is_nested(array.type):
        tags_from(array)
        return array
    if name not in ("key", "size", "date"):
        return text_column(array)
    if _is_bytes(array.type):
        return _decoded(array)
    if is_text(array.type):
        return _plain_text(array)
    if not _is_number(array.type) or pa.types.is_float16(array.type):
        values(array)
    return array


def _converted(name: str, array: pa.Array) -> Sequence[Any]:
    if name == "tags" and pa.types.is_nested(array.type):
        return tags_from(array)
    return values(array)


def text_column(array: pa.Array) -> pa.StringArray:
    """The same as `texts`, as a column."""
    kind = array.type
    if is_text(kind):
        return _plain_text(array)
    if _is_bytes(kind):
        return _decoded(array)
    if pa.types.is_integer(kind):
        return array.cast(pa.string())
    try:
        spelled = array.dictionary_encode()
        found = of_texts(texts(spelled.dictionary))
        return found.take(spelled.indices)
    except (BadValueError, pa.ArrowException):
        return pa.array(texts(array), pa.string())


def _plain_text(array: pa.Array) -> pa.StringArray:
    plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    plain = plain.cast(pa.string())
    try:
        plain.validate(full=True)
    except pa.ArrowInvalid:
        plain.to_pylist()  # raises what says which byte
        raise
    return plain


def _decoded(array: pa.Array) -> pa.StringArray:
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(values(array), pa.string())  # raises what says which row


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def sizes_of(array: pa.Array) -> tuple[pa.Int64Array, Mask]:
    """Sizes in bytes.

    Returns:
        The sizes, null for one that is not stated; and which are odd.
    """
    kind = array.type
    none = pa.nulls(len(array), pa.int64())
    if pa.types.is_null(kind):
        return none, np.zeros(len(array), np.bool_)
    if pa.types.is_integer(kind):
        is_odd = pc.less(array, scalar_of(0).cast(kind))
        if kind == pa.uint64():
            is_odd = pc.greater(array, scalar_of(2**63 - 1).cast(kind))
        plain = pc.if_else(pc.fill_null(is_odd, _NO), pa.NA, array)
        return plain.cast(pa.int64()), flags_in(is_odd)
    if kind in _EXACT:
        wide = array.cast(pa.float64())
        is_there = pc.and_(wide.is_valid(), pc.invert(pc.fill_null(pc.is_nan(wide), _NO)))
        is_whole = pc.and_(
            pc.equal(pc.floor(wide), wide),
            pc.and_(pc.greater_equal(wide, 0.0), pc.less(wide, float(_EXACT[kind]))),
        )
        is_odd = pc.and_not(is_there, pc.fill_null(is_whole, _NO))
        plain = pc.if_else(pc.and_(is_there, pc.fill_null(is_whole, _NO)), wide, pa.NA)
        return plain.cast(pa.int64()), flags_in(is_odd)
    if kind == pa.string():
        is_number = pc.match_substring_regex(array, r"\A[0-9]{1,18}\z")
        is_there = pc.and_(array.is_valid(), pc.fill_null(pc.not_equal(array, _EMPTY), _NO))
        is_odd = pc.and_not(is_there, pc.fill_null(is_number, _NO))
        plain = pc.if_else(pc.fill_null(is_number, _NO), array, pa.NA)
        return plain.cast(pa.int64()), flags_in(is_odd)
    return none, flags_in(array.is_valid())


def dates_of(array: pa.Array) -> tuple[pa.StringArray, Mask]:
    """Dates as YYYY-MM-DD.

    Returns:
        The dates, null where none is stated; and which are odd.
    """
    try:
        spelled = array.dictionary_encode()
        stated, places = values(spelled.dictionary), spelled.indices
    except pa.ArrowException:
        stated, places = values(array), of_numbers(np.arange(len(array)))
    found: list[str | None] = []
    is_odd = np.zeros(len(stated) + 1, np.bool_)
    for i, value in enumerate(stated):
        try:
            found.append(None if value is None or value == "" else date_from(value))
        except BadValueError:
            found.append(None)
            is_odd[i] = True
    indices = numbers_in(pc.fill_null(places.cast(pa.int64()), scalar_of(len(stated))))
    return of_texts([*found, None]).take(of_numbers(indices)), is_odd[indices]


def merged(stated: pa.StringArray, of_key: pa.StringArray) -> tuple[pa.StringArray, Mask]:
    """What rows and their keys state together, and where they disagree."""
    stated = _without_empty(stated)
    is_stated_twice = pc.and_(stated.is_valid(), pc.fill_null(pc.not_equal(of_key, _EMPTY), _NO))
    disagrees = pc.and_(is_stated_twice, pc.not_equal(stated, of_key))
    return pc.coalesce(stated, of_key), flags_in(disagrees)


def described_tags(
    of_key: dict[str, pa.StringArray], columns: dict[str, pa.Array]
) -> tuple[pa.MapArray, Mask]:
    """The tags from the keys, from a column `tags` and from columns without another meaning.

    Returns:
        The tags, and which rows are odd: they have two values for one, or tags of any names.
    """
    num_rows = len(columns["key"])
    sources = dict(of_key)
    is_odd = np.zeros(num_rows, np.bool_)
    found: list[tuple[str, pa.StringArray]] = []
    tags = columns.get("tags")
    if tags is not None and pa.types.is_struct(tags.type):
        found = [(f.name, text_column(c)) for f, c in zip(tags.type, tags.flatten(), strict=True)]
        if len({name for name, _ in found}) < len(found):
            is_odd = ~is_odd
    elif tags is not None and pa.types.is_nested(tags.type):
        is_odd = np.diff(numbers_in(tags.offsets)) > 0
    elif tags is not None:
        found = [("tags", _without_empty(tags))]
    found += [
        (name, _without_empty(column))
        for name, column in columns.items()
        if name not in (*KNOWN_COLUMNS, "tags")
    ]
    for name, column in found:
        before = sources.setdefault(name, column)
        if before is not column:
            # Where only the later column has a value, tags are in another order.
            differs = pc.or_(before.is_null(), pc.fill_null(pc.not_equal(before, column), _NO))
            is_odd = is_odd | flags_in(pc.and_(column.is_valid(), differs))
    return tag_maps(list(sources.items()), num_rows), is_odd


def _without_empty(texts: pa.StringArray) -> pa.StringArray:
    return pc.if_else(pc.equal(texts, _EMPTY), pa.NA, texts)
