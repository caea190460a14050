"""Finds the column of a Parquet file that holds images, in each form that libraries write.

The compressed bytes are in a binary column (plain, large, view, fixed-size, or dictionary-encoded),
in a list of uint8, or in the field ``bytes`` of a record that also has a ``path``, as Hugging Face
writes it.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import pyarrow as pa

from steel_batch.errors import DecodeError
from steel_batch.sources.columns import column_names, type_of

DESCRIBING: Final = ("key", "image_id", "line", "date", "tags")
"""Columns that describe an image and never hold it, even if they are binary."""
IMAGE: Final = "image"


def image_column(fields: pa.Schema, key: str) -> str:
    """Find the column of a Parquet file that holds compressed images.

    That is the one named `image`; only if none is named so, the only one that can hold images.

    Raises:
        DecodeError: There is none, or there are several, or `image` cannot hold images.
    """
    names = column_names(fields.names, (*DESCRIBING, IMAGE))
    columns = [field for name, field in zip(names, fields, strict=True) if name not in DESCRIBING]
    named = [field for name, field in zip(names, fields, strict=True) if name == IMAGE]
    found = [field for field in named or columns if _holds_bytes(field.type)]
    found = found or [field for field in named or columns if _holds_numbers(field.type)]
    if len(found) == 1 and fields.names.count(found[0].name) == 1:
        return str(found[0].name)
    if len(named) == 1 and not found:
        written, kind = named[0].name, type_of(named[0].type)
        raise DecodeError(
            f"{key}: its column {written!r} is {kind}, expected binary: each image's "
            "compressed bytes, or records of 'bytes' and 'path'. Write the column so.",
            code="no_image_column",
        )
    shown = ", ".join(f"{field.name!r} ({type_of(field.type)})" for field in list(fields)[:8])
    more = f" and {len(fields) - 8} more" if len(fields) > 8 else ""
    raise DecodeError(
        f"{key} has {len(found)} binary columns {'' if named else 'and none '}named 'image'; "
        "expected one column "
        "with each image's compressed bytes, or with records of 'bytes' and 'path'. Its columns "
        f"are {shown}{more}. Name the column of the images 'image'.",
        code="no_image_column",
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes, in any of Arrow's types for them."""
    kind = _plain(kind)
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _bytes_field(kind: pa.DataType) -> int:
    """Index of the field `bytes` in a record; -1 if it is not a record or has no such field."""
    kind = _plain(kind)
    if not pa.types.is_struct(kind):
        return -1
    places = [i for i, field in enumerate(kind) if field.name == "bytes"]
    is_one = len(places) == 1 and (is_binary(kind[places[0]].type))
    return places[0] if is_one else -1


def _holds_bytes(kind: pa.DataType) -> bool:
    return is_binary(kind) or _bytes_field(kind) >= 0


def _holds_numbers(kind: pa.DataType) -> bool:
    """Whether a type is a list of 8-bit integers, as written by libraries without binary types."""
    kind = _plain(kind)
    is_list = any(
        is_kind(kind)
        for name in ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
        if (
            is_kind := getattr(pa.types, f"is_{name}", None)
        )  # views are newer than the oldest supported Arrow
    )
    return bool(is_list and kind.value_type in (pa.uint8(), pa.int8()))


def is_leaf_of(path: str, column: str) -> bool:
    """Whether a Parquet leaf, given by its path, belongs to a column."""
    return path == column or path.startswith(f"{column}.")


def image_values(array: pa.Array) -> list[memoryview | str | None]:
    """Each image's bytes without a copy; its path if a record has only that; None for a null.

    Raises:
        ArrowInvalid: A list of numbers contains nulls.
    """
    if isinstance(array, pa.ExtensionArray):
        return image_values(array.storage)
    kind = array.type
    if pa.types.is_dictionary(kind):
        distinct = image_values(array.dictionary)
        return [None if i is None else distinct[i] for i in array.indices.to_pylist()]
    if pa.types.is_struct(kind):
        children = array.flatten()
        content = image_values(children[_bytes_field(kind)])
        paths = [field.name for field in kind]
        if "path" not in paths or all(value is not None for value in content):
            return content
        names = children[paths.index("path")].to_pylist()
        return [
            None if value is None and name is None else (str(name) if value is None else value)
            for value, name in zip(content, names, strict=True)
        ]
    if not is_binary(kind):
        return _of_numbers(array)
    return list(binary_views(array))


def binary_views(array: pa.Array) -> list[memoryview | None]:
    """The values of a binary column without a copy, unlike Arrow's scalars."""
    try:
        large = array.cast(pa.large_binary())
    except pa.ArrowNotImplementedError:  # views, in old versions of Arrow
        large = pa.array(array.to_pylist(), pa.large_binary())
    _, offsets, data = large.buffers()
    edges = np.frombuffer(offsets or b"", np.int64)[large.offset :][: len(large) + 1].tolist()
    content = memoryview(data or b"").cast("B")
    return [
        content[start:stop] if is_there else None
        for (start, stop), is_there in zip(
            itertools.pairwise(edges), large.is_valid().to_pylist(), strict=True
        )
    ]


def _of_numbers(array: pa.Array) -> list[memoryview | str | None]:
    flat = array.cast(pa.large_list(array.type.value_type))
    numbers = flat.values
    if numbers.null_count:  # also if a fixed-size list is null itself
        return [None if row is None else memoryview(_bytes_of(row)) for row in flat.to_pylist()]
    content = memoryview(numbers.to_numpy(zero_copy_only=True).view(np.uint8))
    edges = flat.offsets.to_pylist()
    return [
        content[start:stop] if is_there else None
        for (start, stop), is_there in zip(
            itertools.pairwise(edges), flat.is_valid().to_pylist(), strict=True
        )
    ]


def _bytes_of(numbers: list[int | None]) -> bytes:
    if None in numbers:
        raise pa.ArrowInvalid("a list of an image's bytes contains nulls")
    return bytes(number & 0xFF for number in numbers if number is not None)
