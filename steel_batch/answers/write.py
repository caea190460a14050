"""Writes answers as JSON, CSV and Parquet, row by row as they are read."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.errors import ConfigError

Batches = Iterable[pa.RecordBatch]


def plain(value: Any, kind: pa.DataType) -> Any:
    """Convert a value to what JSON can represent.

    Maps become objects; dates and times become strings, and intervals durations of ISO 8601; NaN
    and infinities become null, because JSON cannot represent them.
    """
    if value is None:
        return None
    if pa.types.is_map(kind):
        return {str(key): plain(each, kind.item_type) for key, each in value}
    if pa.types.is_struct(kind):
        return {field.name: plain(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [plain(each, kind.value_type) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, decimal.Decimal):  # DuckDB's type of a sum
        return float(value) if kind.scale else int(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, pa.MonthDayNano):
        return _duration(value)
    return str(value)


def _duration(value: pa.MonthDayNano) -> str:
    """Format an interval as ISO 8601 does: months, days and seconds, of any sign."""
    months, days, seconds = value.months, value.days, decimal.Decimal(value.nanoseconds) / 10**9
    date = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    return f"P{date}T{seconds:f}S" if seconds or not date else f"P{date}"


def rows_of(fields: pa.Schema, batches: Batches, *, is_json: bool = False) -> Iterator[list[Any]]:
    """Yield the rows as lists of `plain` values.

    Args:
        fields: The answer's columns.
        batches: Its rows.
        is_json: Whether numbers must be those of JSON: else columns of them keep NaN, infinities,
            and decimals with all digits.

    Raises:
        ConfigError: A date or time is none of Python's.
    """
    for batch in batches:
        columns = [
            _plain_column(column, field, is_json=is_json)
            for column, field in zip(batch.columns, fields, strict=True)
        ]
        yield from map(list, zip(*columns, strict=True))


def _plain_column(column: pa.Array, field: pa.Field, *, is_json: bool) -> list[Any]:
    if not is_json and (pa.types.is_floating(field.type) or _has_fraction(field.type)):
        values: list[Any] = column.to_pylist()
        return values
    if field.type == pa.time64("ns"):  # Python's times end at microseconds
        column = column.cast(pa.string())
    try:
        return [plain(value, field.type) for value in column.to_pylist()]
    except OverflowError as error:
        raise ConfigError(
            f"the answer's column {field.name!r} has a date or time outside of the years 1 to "
            "9999: cast it to VARCHAR."
        ) from error


def _has_fraction(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind) and kind.scale > 0)


def text_of(value: Any) -> str:
    """Format a `plain` value for a cell: objects and lists as JSON, null as empty text."""
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    return repr(value) if isinstance(value, float) else str(value)


def write_json(fields: pa.Schema, batches: Batches, to: BinaryIO) -> None:
    """Write one array of objects with sorted keys.

    Raises:
        ConfigError: Two columns have the same name.
    """
    _check_names(fields, "JSON")
    start = "["
    for row in rows_of(fields, batches, is_json=True):
        text = json.dumps(dict(zip(fields.names, row, strict=True)), sort_keys=True)
        to.write(f"{start}{text}".encode())
        start = ", "
    to.write(b"]\n" if start == ", " else b"[]\n")


def write_csv(fields: pa.Schema, batches: Batches, to: BinaryIO) -> None:
    """Write a line of column names, then a line per row.

    Null is empty, and an empty string is ``""``; NaN and infinities are ``nan``, ``inf`` and
    ``-inf``; lists and objects are JSON.
    """
    to.write(csv_line(fields.names))
    for row in rows_of(fields, batches):
        to.write(csv_line(row))


def csv_line(cells: Iterable[Any]) -> bytes:
    """Return a line of a CSV file; see `write_csv`."""
    return (",".join(map(_cell, cells)) + "\n").encode()


def _cell(value: Any) -> str:
    text = text_of(value)
    if value == "" or any(c in text for c in ',"\r\n'):
        return f'"{text.replace(chr(34), chr(34) * 2)}"'
    return text


def write_parquet(fields: pa.Schema, batches: Batches, to: BinaryIO) -> None:
    """Write one Parquet file with the columns' own types.

    Raises:
        ConfigError: Two columns have the same name, or one is of a type that Parquet lacks.
    """
    _check_names(fields, "Parquet")
    for field in fields:
        try:
            pq.ParquetWriter(io.BytesIO(), pa.schema([field])).close()
        except pa.ArrowException as error:
            raise ConfigError(
                f"the answer's column {field.name!r} is {field.type}, which Parquet cannot hold: "
                "cast it, to VARCHAR for example."
            ) from error
    with pq.ParquetWriter(to, fields, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


WRITERS: Final[dict[str, Callable[[pa.Schema, Batches, BinaryIO], None]]] = {
    "json": write_json,
    "csv": write_csv,
    "parquet": write_parquet,
}
"""The writers, by the name of the format; the command line itself writes text."""


def _check_names(fields: pa.Schema, what: str) -> None:
    twice = [name for name, num in Counter(fields.names).items() if num > 1]
    if twice:
        raise ConfigError(
            f"the answer has several columns named {twice[0]!r}, which {what} cannot hold: rename "
            "them with AS."
        )
