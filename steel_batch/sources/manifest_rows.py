"""Reads the rows of CSV and Parquet manifests."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake
from steel_batch.sources.columns import (
    BadValueError,
    column_names,
    refuse_repeated,
    tags_from,
    texts,
    type_of,
    values,
)

KNOWN_COLUMNS: Final = ("key", "size", "etag", "line", "date", "image_id")
"""Columns with a meaning; every other column becomes a tag."""
BATCH_ROWS: Final = 8192
READ_BYTES: Final = 1 << 20

Row = dict[str, Any]
"""A row of a manifest, by column name."""


def read_csv(place: Lake, name: str) -> Iterator[Row]:
    """Read a CSV's rows, every value as text; white space after the header's commas is removed.

    Raises:
        ConfigError: It is not UTF-8, lacks the column ``key``, repeats a column name, or has a row
            of a different length.
    """
    try:
        with (
            place.open_input(name) as stream,
            io.TextIOWrapper(
                io.BufferedReader(stream, READ_BYTES),  # type: ignore[type-var]  # of typeshed
                "utf-8-sig",
                newline="",
            ) as text,
        ):
            header: list[str] = []
            written = next(csv.reader(_noted(text, header), strict=True), [])
            # `key, date` means a column `date`; the values have that space too.
            has_blanks = any(column[:1] == " " for column in written[1:])
            if has_blanks:
                written = next(csv.reader(header, strict=True, skipinitialspace=True))
            names = _columns(written)
            reader = csv.reader(text, strict=True, skipinitialspace=has_blanks)
            for number, row in enumerate(filter(None, reader), 1):
                if len(row) != len(names):
                    raise InputError(
                        f"row {number} has {len(row)} columns, expected {len(names)} as in the "
                        "header."
                    )
                yield _csv_row(number, names, row)
    except (ConfigError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(place, name, error) from error


def _noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _csv_row(number: int, names: list[str], row: list[str]) -> Row:
    said = {
        name: value if name == "key" else value.strip()
        for name, value in zip(names, row, strict=True)
        if name
    }
    if len(said) < len(row):
        for column, (name, value) in enumerate(zip(names, row, strict=True), 1):
            if not name and value.strip():
                raise InputError(
                    f"row {number} has {value!r} in column {column}, which has no name: give it "
                    "a name to make it a tag, or remove it (`to_csv(index=False)` with pandas)."
                )
    return said


def read_parquet(place: Lake, name: str) -> Iterator[Row]:
    """Read a Parquet file's rows: keys, sizes and dates as stored, everything else as text.

    Raises:
        ConfigError: It is damaged, lacks the column ``key``, repeats a column name, or has a value
            in a tag column that cannot be text.
    """
    try:
        with place.open_input(name) as stream, pq.ParquetFile(stream) as file:
            names = _columns(file.schema_arrow.names)
            for column, field in zip(names, file.schema_arrow, strict=True):
                if column != "tags" and pa.types.is_nested(field.type):
                    raise InputError(
                        f"its column {field.name!r} is {type_of(field.type)}, which cannot be a "
                        "tag: remove the column, or store it as text."
                    )
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                yield from _parquet_rows(number, names, batch)
                number += batch.num_rows
    except (ConfigError, pa.ArrowException, OSError, ValueError) as error:
        raise _unusable(place, name, error) from error


def _parquet_rows(number: int, names: list[str], batch: pa.RecordBatch) -> Iterator[Row]:
    columns = {}
    for name, array in zip(names, batch.columns, strict=True):
        if not name:
            continue
        try:
            columns[name] = _converted(name, array)
        except BadValueError as error:
            raise InputError(
                f"row {number + error.index + 1}: its column {name!r} {error.what}."
            ) from None
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _converted(name: str, array: pa.Array) -> list[Any]:
    if name == "tags" and pa.types.is_nested(array.type):
        return list(tags_from(array))
    if name in ("key", "size", "date"):
        return values(array)
    return list(texts(array))


def _columns(written: Sequence[str]) -> list[str]:
    """The normalised column names; '' for a column without one."""
    names = column_names(written, KNOWN_COLUMNS)
    if "key" not in names:
        shown = ", ".join(map(repr, written)) or "of an empty header"
        hint = (
            " Values must be separated by commas."
            if len(written) == 1 and re.search("[;\t|]", written[0])
            else ""
        )
        raise InputError(
            f"it has the columns {shown}, and none named 'key'.{hint} If it holds the images "
            "themselves, give its folder as --images and its name as --key-pattern."
        )
    refuse_repeated(names, written)
    return names


def _unusable(place: Lake, name: str, error: Exception) -> ConfigError:
    return InputError(
        f"{place.uri(name)} cannot be used as a manifest: {error} Expected a Parquet file, or a "
        "CSV in UTF-8 with a header, that has a column 'key'."
    )
