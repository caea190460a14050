"""The rows of a Parquet file with a column of compressed images, described by its other columns.

Columns: ``image`` (another name works if it is the only image column; see `image_column`), and
optionally ``image_id``, ``line``, ``date``, ``tags`` and ``bytes`` (the image's size), of any type
that can hold the value (`columns`). The images themselves are not read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, DecodeError, InputError, LakeError
from steel_batch.lake import Lake
from steel_batch.sources.columns import (
    BadValueError,
    check_texts,
    column_names,
    date_from,
    refuse_repeated,
    size_from,
    tags_from,
    text_of,
    texts,
    type_of,
    values,
)
from steel_batch.sources.dates import EXPECTED
from steel_batch.sources.image_column import image_column, is_binary
from steel_batch.sources.image_ref import ImageRef
from steel_batch.sources.magic import MAGIC_BYTES, kind_of
from steel_batch.sources.parquet_front import BATCH_ROWS, ParquetFront, TooMuchError

COLUMNS: Final = ("image_id", "line", "date", "tags", "bytes")
ROW_DIGITS: Final = 8
"""Row numbers in keys have leading zeros, so that keys sort in file order."""


def parquet_images(
    lake: Lake, container: ImageRef, limits: Limits = LIMITS
) -> Iterator[ImageRef | str]:
    """List the images of one Parquet file.

    Args:
        lake: Root of the file.
        container: The file.
        limits: What may be read of it.

    Yields:
        Images in file order. Without a column ``bytes``, each has the average size of its row group
        until it is read.

    Raises:
        ConfigError: The file is damaged or has no image column, or a row's value does not fit its
            column.
    """
    key = container.object_key
    stem = key.rpartition("/")[2].rpartition(".")[0]
    try:
        with (
            lake.open_input(key) as stream,
            ParquetFront(stream, stream.seek(0, io.SEEK_END), limits) as front,
        ):
            column = image_column(front.file.schema_arrow, key)
            columns = _describing(front.file.schema_arrow, column)
            row = 0
            for group, num_rows in enumerate(front.num_rows):
                average = front.unpacked_bytes(group, column) // max(1, num_rows)
                for batch in _batches(front, group, columns, num_rows):
                    for said in _rows(batch, columns, key, row, limits):
                        yield _image(container, stem, row, said, average)
                        row += 1
        _check_unchanged(lake, container)
    except DecodeError as error:
        raise InputError(error.message) from error
    except ConfigError as error:
        message = str(error)
        raise InputError(message if message.startswith(key) else f"{key}: {message}") from error
    except TooMuchError as error:
        raise InputError(
            f"{lake.uri(key)} holds {error}: nothing of it is scored. Write it with smaller row "
            "groups, move it out of the prefix, or give a greater --limit."
        ) from error
    except MemoryError as error:
        raise InputError(
            f"{lake.uri(key)}: there is no memory to read what describes it."
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
            raise InputError(f"its column {written!r} is {type_of(kind)}, expected {expected}.")
    return found


def _batches(
    front: ParquetFront, group: int, columns: dict[str, str], num_rows: int
) -> Iterator[pa.RecordBatch | int]:
    """Yield the columns, some rows at a time; if there are no columns, only numbers of rows."""
    if not columns:
        for start in range(0, num_rows, BATCH_ROWS):
            yield min(BATCH_ROWS, num_rows - start)
        return
    _, batches = front.open_group(group, list(columns.values()))
    yield from batches


def _rows(
    batch: pa.RecordBatch | int,
    columns: dict[str, str],
    key: str,
    first_row: int,
    limits: Limits,
) -> Iterator[dict[str, Any]]:
    """Yield what each row states."""
    if isinstance(batch, int):
        yield from ({} for _ in range(batch))
        return
    said: dict[str, Sequence[Any]] = {}
    for name, written in columns.items():
        try:
            check_texts(batch.column(written), limits)
            said[name] = _converted(name, batch.column(written))
        except BadValueError as error:
            where = f"{key}#{first_row + error.index:0{ROW_DIGITS}}: its column {written!r} "
            raise InputError(f"{where}{error.what}{_EXPECTED[name]}.") from None
    yield from (dict(zip(said, row, strict=True)) for row in zip(*said.values(), strict=True))


_EXPECTED: Final = {
    "image_id": "", "line": "", "tags": "", "date": f", expected {EXPECTED} in every row",
    "bytes": ", expected each image's size in bytes",
}  # fmt: skip


def _converted(name: str, array: pa.Array) -> Sequence[Any]:
    if name == "tags":
        return tags_from(array)
    if name in ("image_id", "line"):
        return texts(array)
    found = values(array)
    for i, value in enumerate(found):
        try:
            if name == "date":
                found[i] = date_from(value)
            elif text_of(value) is not None:
                found[i] = size_from(value)
            else:
                found[i] = None
        except BadValueError as error:
            raise BadValueError(error.what, i) from None
    return found


def _image(
    container: ImageRef, stem: str, row: int, said: dict[str, Any], average: int
) -> ImageRef:
    image_id, size = said.get("image_id"), said.get("bytes")
    return ImageRef(
        image_key=f"{container.object_key}#{row:0{ROW_DIGITS}}",
        image_id=f"{stem}-{row}" if image_id is None else image_id,
        line=said.get("line"),
        date=said.get("date"),
        tags=said.get("tags") or {},
        object_key=container.object_key,
        offset=row,
        bytes=average if size is None else size,
        etag=container.etag,
    )


def _check_unchanged(lake: Lake, container: ImageRef) -> None:
    found = lake.stat(container.object_key)
    if found is None or found.etag != container.etag:
        raise LakeError(
            f"{lake.uri(container.object_key)} was replaced while it was read; run again."
        )
