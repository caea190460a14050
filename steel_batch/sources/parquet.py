"""The rows of a Parquet file with a column of compressed images, described by its other columns.

Columns: ``image`` (binary; another name is fine if it is the only binary column), and where they
are there ``image_id``, ``line``, ``date``, ``tags`` (a map of strings) and ``bytes``. The images
themselves are not read.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.errors import ConfigError, DecodeError, InputError, LakeError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.sources.image_ref import ImageRef

COLUMNS: Final = ("image_id", "line", "date", "tags", "bytes")
ROW_DIGITS: Final = 8
"""Rows in keys have leading zeros, so that the order of keys is the order in the file."""
BATCH_ROWS: Final = 8192


def parquet_images(lake: Lake, container: ImageRef) -> Iterator[ImageRef | str]:
    """The images of one Parquet file.

    Args:
        lake: Where the file lies.
        container: The file.

    Yields:
        Images in the file's order. Without a column ``bytes``, each has its row group's average
        size until it is read.

    Raises:
        ConfigError: The file is damaged or has no column of images; or a row's date is none.
    """
    key = container.object_key
    stem = key.rpartition("/")[2].rpartition(".")[0]
    try:
        with lake.open_input(key) as stream, pq.ParquetFile(stream) as file:
            fields = file.schema_arrow
            column = fields.get_field_index(image_column(fields, key))
            columns = [name for name in COLUMNS if name in fields.names]
            if "tags" in columns and not pa.types.is_map(fields.field("tags").type):
                raise DecodeError(
                    f"{key}: its column 'tags' is {fields.field('tags').type}, expected a map of "
                    "strings."
                )
            row = 0
            for group in range(file.num_row_groups):
                footer = file.metadata.row_group(group)
                average = _size(file, group, fields[column].name) // max(1, footer.num_rows)
                for batch in _batches(file, group, columns, footer.num_rows):
                    for values in batch:
                        yield _image(container, stem, row, values, average)
                        row += 1
        _check_unchanged(lake, container)
    except DecodeError as error:
        raise InputError(error.message) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{lake.uri(key)} is damaged, or no Parquet file ({reason}): nothing of it is scored. "
            "Upload it again, or move it out of the prefix."
        ) from error


def _batches(
    file: pq.ParquetFile, group: int, columns: list[str], num_rows: int
) -> Iterator[list[dict[str, Any]]]:
    if not columns:
        for start in range(0, num_rows, BATCH_ROWS):
            yield [{} for _ in range(min(BATCH_ROWS, num_rows - start))]
        return
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
        yield batch.to_pylist()


def _size(file: pq.ParquetFile, group: int, column: str) -> int:
    footer = file.metadata.row_group(group)
    for i in range(footer.num_columns):
        if footer.column(i).path_in_schema == column:
            return int(footer.column(i).total_uncompressed_size)
    return 0


def _image(
    container: ImageRef, stem: str, row: int, values: dict[str, Any], average: int
) -> ImageRef:
    key = f"{container.object_key}#{row:0{ROW_DIGITS}}"
    image_id, size = values.get("image_id"), values.get("bytes")
    return ImageRef(
        image_key=key,
        image_id=f"{stem}-{row}" if image_id is None else str(image_id),
        line=None if values.get("line") is None else str(values["line"]),
        date=_date(values["date"], key) if "date" in values else None,
        tags={k: v for k, v in values.get("tags") or () if v is not None},
        object_key=container.object_key,
        offset=row,
        bytes=average if size is None else int(size),
        etag=container.etag,
    )


def _date(value: Any, key: str) -> str:
    if isinstance(value, datetime.datetime):
        value = value.date()
    try:
        return check_date(str(value))
    except ConfigError as error:
        raise InputError(
            f"{key}: its column 'date' holds {value!r}, expected YYYY-MM-DD in every row."
        ) from error


def _check_unchanged(lake: Lake, container: ImageRef) -> None:
    found = lake.stat(container.object_key)
    if found is None or found.etag != container.etag:
        raise LakeError(
            f"{lake.uri(container.object_key)} was replaced while it was read; run again."
        )


def image_column(fields: pa.Schema, key: str) -> str:
    """The column of a Parquet shard that holds compressed images.

    Raises:
        DecodeError: There is no binary column, or several without one named `image`.
    """
    binary = [
        f.name for f in fields if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
    ]
    if "image" in binary:
        return "image"
    if len(binary) != 1:
        raise DecodeError(
            f"{key} has {len(binary)} binary columns and none named 'image'; expected one with "
            "each image's compressed bytes.",
            code="no_image_column",
        )
    return str(binary[0])
