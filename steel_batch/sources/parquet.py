"""The rows of a Parquet file with a column of compressed images, described by its other columns.

Columns: ``image`` (another name works if it is the only image column; see `image_column`), and
optionally ``image_id``, ``line``, ``date``, ``tags`` and ``bytes`` (the image's size), of any type
that can hold the value (`columns`). The images themselves are not read.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, DecodeError, InputError, LakeError
from steel_batch.lake import Lake
from steel_batch.sources.arrays import bytes_of
from steel_batch.sources.columns import (
    BadValueError,
    check_texts,
    column_names,
    date_from,
    refuse_repeated,
    size_from,
    tags_from,
    text_of,
    type_of,
    values,
)
from steel_batch.sources.dates import EXPECTED
from steel_batch.sources.image_column import image_column, is_binary
from steel_batch.sources.image_ref import IMAGES, ImageRef, repeated
from steel_batch.sources.key_columns import tag_maps
from steel_batch.sources.magic import MAGIC_BYTES, kind_of
from steel_batch.sources.manifest_columns import text_column
from steel_batch.sources.parquet_front import ParquetFront, TooMuchError

COLUMNS: Final = ("image_id", "line", "date", "tags", "bytes")
ROW_DIGITS: Final = 8
"""Row numbers in keys have leading zeros, so that keys sort in file order."""
ROWS_AT_ONCE: Final = 4_096
"""Rows that are converted together, however small the file's row groups are."""
BYTES_AT_ONCE: Final = 8 << 20
"""The same for rows whose columns are large."""


def parquet_images(
    lake: Lake, container: ImageRef, limits: Limits = LIMITS
) -> Iterator[pa.RecordBatch]:
    """List the images of one Parquet file.

    Args:
        lake: Root of the file.
        container: The file.
        limits: What may be read of it.

    Yields:
        `IMAGES` batches in file order. Without a column ``bytes``, each image has the average size
        of its row group until it is read.

    Raises:
        ConfigError: The file is damaged or has no image column, or a row's value does not fit its
            column.
    """
    key = container.object_key
    try:
        with (
            lake.open_input(key) as stream,
            ParquetFront(stream, stream.seek(0, io.SEEK_END), limits) as front,
        ):
            column = image_column(front.file.schema_arrow, key)
            columns = _describing(front.file.schema_arrow, column)
            row = 0
            for described, averages in _described(front, key, column, columns, limits):
                yield _images(container, columns, described, averages, row)
                row += len(averages)
        _check_unchanged(lake, container)
    except DecodeError as error:
        raise InputError(error.message) from error
    except ConfigError as error:
        message = str(error)
        raise InputError(message if message.startswith(key) else f"{key}: {message}") from error
    except TooMuchError as error:
        raise InputError(
            f"{lake.uri(key)} holds {error}: nothing of it is scored. Write it with smaller row "
            "groups, move it out of the prefix, or give a greater --input-limit."
        ) from error
    except MemoryError as error:
        raise InputError(
            f"{lake.uri(key)}: there is no memory to read what describes it. Write it with smaller "
            "row groups, or move it out of the prefix."
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = kind_of(lake.read(key, length=min(MAGIC_BYTES, container.bytes)))
        if kind is not None and kind != "a Parquet file":
            raise InputError(
                f"{lake.uri(key)} is {kind}, not a Parquet file as its name states: move it out of "
                "the prefix, or upload the right file."
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{lake.uri(key)} is damaged, or not a Parquet file ({reason}): none of it is scored. "
            "Upload it again, or move it out of the prefix."
        ) from error


def _describing(fields: pa.Schema, image: str) -> dict[str, str]:
    """The columns that describe the images: their names in the file, by their meaning."""
    meant = column_names(fields.names, COLUMNS)
    names = [
        "" if written == image or (name == "bytes" and is_binary(fields.types[i])) else name
        for i, (name, written) in enumerate(zip(meant, fields.names, strict=True))
    ]
    names = [name if name in COLUMNS else "" for name in names]
    refuse_repeated(names, fields.names)
    found = {name: written for name, written in zip(names, fields.names, strict=True) if name}
    for name, written in found.items():
        kind = fields.field(written).type
        if name != "tags" and pa.types.is_nested(kind):
            expected = "a number of bytes" if name == "bytes" else "text"
            raise InputError(
                f"its column {written!r} is {type_of(kind)}, expected {expected}: store it so, or "
                "rename the column."
            )
    return found


def _described(
    front: ParquetFront, key: str, image: str, columns: dict[str, str], limits: Limits
) -> Iterator[tuple[pa.Table | None, pa.Int64Array]]:
    """Yield the columns that describe the images, and the average sizes of the images' row groups.

    Yields:
        Some rows at a time, of several row groups if these are small; None if there are no columns.
    """
    batches: list[pa.RecordBatch] = []
    average_of_group = np.array(
        [front.unpacked_bytes(i, image) // max(1, n) for i, n in enumerate(front.num_rows)],
        np.int64,
    )
    group_ends = np.cumsum(front.num_rows)
    first = row = num_bytes = 0

    def taken() -> tuple[pa.Table | None, pa.Int64Array]:
        table = pa.Table.from_batches(batches).unify_dictionaries() if columns else None
        groups = np.searchsorted(group_ends, np.arange(first, row), side="right")
        return table, pa.array(average_of_group[groups])

    for batch in _batches(front, columns):
        if isinstance(batch, pa.RecordBatch):
            for name, written in columns.items():
                with _naming(key, row, name, written):
                    check_texts(batch.column(written), limits)
            batches.append(batch)
            num_bytes += bytes_of(batch)
        row += batch if isinstance(batch, int) else batch.num_rows
        if row - first >= ROWS_AT_ONCE or num_bytes >= BYTES_AT_ONCE:
            yield taken()
            batches, first, num_bytes = [], row, 0
    if row > first:
        yield taken()


def _batches(front: ParquetFront, columns: dict[str, str]) -> Iterator[pa.RecordBatch | int]:
    """Yield the columns, some rows at a time; if there are no columns, only numbers of rows."""
    if columns:
        yield from front.batches(list(columns.values()))
        return
    num_rows = sum(front.num_rows)
    for start in range(0, num_rows, ROWS_AT_ONCE):
        yield min(ROWS_AT_ONCE, num_rows - start)


_EXPECTED: Final = {
    "image_id": "", "line": "", "tags": "", "date": f", expected {EXPECTED} in every row",
    "bytes": ", expected each image's size in bytes",
}  # fmt: skip


@contextlib.contextmanager
def _naming(key: str, first_row: int, name: str, written: str) -> Iterator[None]:
    """Say of which row and column a value is bad."""
    try:
        yield
    except BadValueError as error:
        row = f"{first_row + error.index:0{ROW_DIGITS}}"
        raise InputError(
            f"{key}#{row}: its column {written!r} {error.what}{_EXPECTED[name]}. Correct that row "
            "and upload the file again, or move it out of the prefix."
        ) from None


def _images(
    container: ImageRef,
    columns: dict[str, str],
    described: pa.Table | None,
    averages: pa.Int64Array,
    first_row: int,
) -> pa.RecordBatch:
    """The `IMAGES` of some rows."""
    key, num_rows = container.object_key, len(averages)
    found: dict[str, pa.Array] = {}
    if described is not None:
        for name, written in columns.items():
            with _naming(key, first_row, name, written):
                found[name] = _converted(name, described[written].combine_chunks())
    rows = pa.array(np.arange(first_row, first_row + num_rows))
    numbers = rows.cast(pa.string())
    stem = key.rpartition("/")[2].rpartition(".")[0]
    none = pa.nulls(num_rows, pa.string())
    in_ref = {
        "image_key": pc.binary_join_element_wise(key, pc.utf8_lpad(numbers, ROW_DIGITS, "0"), "#"),
        "image_id": pc.coalesce(
            found.get("image_id", none), pc.binary_join_element_wise(stem, numbers, "-")
        ),
        "line": found.get("line", none),
        "tags": found.get("tags", tag_maps([], num_rows)),
        "object_key": repeated(key, num_rows),
        "offset": rows,
        "bytes": pc.coalesce(found["bytes"], averages) if "bytes" in found else averages,
        "etag": repeated(container.etag, num_rows),
        "date": found.get("date", none),
    }
    return pa.RecordBatch.from_arrays([in_ref[f.name] for f in IMAGES], schema=IMAGES)


def _converted(name: str, array: pa.Array) -> pa.Array:
    """A column as `IMAGES` has it; null where a row states nothing.

    Raises:
        BadValueError: A value does not fit.
    """
    if name == "tags":
        return pa.array([list(tags.items()) for tags in tags_from(array)], schema.TAGS)
    if name in ("image_id", "line"):
        return text_column(array)
    convert: Callable[[Any], Any] = date_from if name == "date" else _size_from
    known: dict[Any, Any] = {}
    found = []
    for i, value in enumerate(values(array)):
        if value not in known:
            try:
                known[value] = convert(value)
            except BadValueError as error:
                raise BadValueError(error.what, i) from None
        found.append(known[value])
    return pa.array(found, IMAGES.field(name).type)


def _size_from(value: Any) -> int | None:
    return None if text_of(value) is None else size_from(value)


def _check_unchanged(lake: Lake, container: ImageRef) -> None:
    found = lake.stat(container.object_key)
    if found is None or found.etag != container.etag:
        raise LakeError(
            f"{lake.uri(container.object_key)} was replaced while it was read; run again."
        )
