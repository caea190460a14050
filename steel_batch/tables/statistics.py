"""What a table's log states about a file's columns: minimum, maximum and number of nulls.

Readers skip files by these statistics. If a file has bounds for only some columns, deltalake reads
each missing one as ``column >= null``, for which Arrow skips the file, whatever it contains. So a
file gets bounds and nulls for every column that can have them, or for none. Bounds are exact: some
readers answer ``min`` and ``max`` from them.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_TEXT_BYTES: Final = 1024
"""A longer text is not copied into the log: its file gets no bounds."""


def file_statistics(
    footer: pq.FileMetaData, fields: pa.Schema, *, with_nan: Collection[str] = ()
) -> dict[str, Any]:
    """The statistics of a Parquet file in the form of Delta's log.

    Args:
        footer: The file's metadata.
        fields: The table's columns, without those of its partitions. Columns that the file lacks
            are null in all of its rows.
        with_nan: Columns with a NaN, which a footer does not show. NaN has no bound.

    Returns:
        ``numRecords``; and ``minValues``, ``maxValues`` and ``nullCount`` of every scalar column,
        or none of these three if one of the columns has no exact bounds.
    """
    places = {footer.schema.column(place).path: place for place in range(footer.num_columns)}
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for field in fields:
        if _has_no_bounds(field.type):
            continue
        if pa.types.is_nested(field.type) or field.name in with_nan:
            return rows_only(footer.num_rows)
        if field.name not in places:
            nulls[field.name] = footer.num_rows
            continue
        try:
            values, nulls[field.name] = _bounds(footer, places[field.name])
        except ValueError:
            return rows_only(footer.num_rows)
        if values:
            least[field.name], greatest[field.name] = min(values), max(values)
    return {
        "numRecords": footer.num_rows,
        "minValues": {name: _to_json(value) for name, value in least.items()},
        "maxValues": {name: _to_json(value) for name, value in greatest.items()},
        "nullCount": nulls,
    }


def rows_only(num_rows: int | None) -> dict[str, Any]:
    """Statistics by which no reader skips a file."""
    return {} if num_rows is None else {"numRecords": num_rows}


def cover(statistics: dict[str, Any], own: pa.Schema, fields: pa.Schema) -> dict[str, Any]:
    """A file's statistics for a table that may have more columns than the file.

    Args:
        statistics: The file's statistics.
        own: The file's columns.
        fields: The table's columns, without those of its partitions.
    """
    num_rows, nulls = statistics["numRecords"], dict(statistics.get("nullCount", {}))
    for field in fields:
        if _has_no_bounds(field.type):
            continue
        if field.name not in own.names and not pa.types.is_nested(field.type):
            nulls.setdefault(field.name, num_rows)
        elif field.name not in nulls:
            return rows_only(num_rows)
    return {**statistics, "nullCount": nulls}


def columns_with_nan(table: pa.Table) -> list[str]:
    """The floating-point columns of a table that contain a NaN."""
    return [
        field.name
        for field in table.schema
        if pa.types.is_floating(field.type) and pc.any(pc.is_nan(table[field.name])).as_py()
    ]


def are_complete(files: pa.Table) -> pa.ChunkedArray:
    """For each file, whether readers of its statistics find all of its rows.

    Args:
        files: Result of `DeltaTable.get_add_actions`, not flattened.
    """
    if files.num_rows == 0 or "min" not in files.column_names:
        return pa.chunked_array([[True] * files.num_rows], pa.bool_())
    least, greatest, nulls = files["min"], files["max"], files["null_count"]
    complete: Any = pa.scalar(True)
    for field in least.type:
        if pa.types.is_nested(field.type):
            complete = pa.scalar(False)
            break
        num_nulls = pc.struct_field(nulls, field.name)
        is_bounded = pc.and_(
            pc.is_valid(pc.struct_field(least, field.name)),
            pc.is_valid(pc.struct_field(greatest, field.name)),
        )
        is_null = pc.fill_null(pc.equal(num_nulls, files["num_records"]), False)
        covered = pc.and_(pc.is_valid(num_nulls), pc.or_(is_bounded, is_null))
        complete = pc.and_(complete, covered)
    has_none = pc.and_(pc.is_null(least), pc.is_null(greatest))
    return pc.or_(complete, has_none)


def _has_no_bounds(kind: pa.DataType) -> bool:
    """Whether no reader expects bounds for a type."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind))


def _bounds(footer: pq.FileMetaData, place: int) -> tuple[list[Any], int]:
    """Minimum and maximum of a column per row group, and its number of nulls.

    Raises:
        ValueError: Some are unknown, or cannot be represented exactly in JSON.
    """
    values: list[Any] = []
    num_nulls = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        found = group.column(place).statistics
        if found is None or not found.has_null_count:
            raise ValueError("not counted")
        num_nulls += found.null_count
        if found.has_min_max:
            values += [_exact(found.min), _exact(found.max)]
        elif found.null_count != group.num_rows:
            raise ValueError("not bounded")
    return values, num_nulls


def _exact(value: Any) -> Any:
    if isinstance(value, str):
        is_exact = len(value.encode()) <= MAX_TEXT_BYTES
    elif isinstance(value, float):
        is_exact = math.isfinite(value)
    else:
        is_exact = isinstance(value, (bool, int, datetime.date))
    if not is_exact:
        raise ValueError("no exact bound")
    return value


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return value.isoformat(timespec="microseconds")
        at = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return f"{at.isoformat(timespec='microseconds')}Z"
    return value.isoformat() if isinstance(value, datetime.date) else value
