"""Reads the rows of CSV and Parquet manifests, block by block."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake
from steel_batch.sources.arrays import bytes_of, of_texts
from steel_batch.sources.columns import (
    BadValueError,
    check_texts,
    column_names,
    refuse_repeated,
    type_of,
)
from steel_batch.sources.lines import READ_BYTES, Lines, in_blocks
from steel_batch.sources.manifest_columns import KNOWN_COLUMNS, RowBlock, column_of
from steel_batch.sources.parquet_front import ParquetFront, TooMuchError

COLUMN_ROWS: Final = 16_384
BLOCK_BYTES: Final = 16 << 20
"""Of larger rows, fewer are read at a time."""


def read_csv(place: Lake, name: str, limits: Limits = LIMITS) -> Iterator[RowBlock]:
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
            lines, header = Lines(text, limits), list[str]()
            written = next(csv.reader(_noted(lines, header), strict=True), [])
            # `key, date` means a column `date`; the values have that space too.
            has_blanks = any(column[:1] == " " for column in written[1:])
            if has_blanks:
                written = next(csv.reader(header, strict=True, skipinitialspace=True))
            names = _columns(written, limits)
            rows = lines.rows(strict=True, skips_blanks=has_blanks)
            for block in in_blocks(_checked(names, filter(None, rows))):
                yield _csv_block(names, block)
    except (ConfigError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(place, name, error) from error
    except MemoryError as error:
        raise _unusable(place, name, "there is no memory to read it: divide it.") from error


def _noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _checked(names: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise InputError(
                f"row {number} has {len(row)} columns, expected {len(names)} as in the header. "
                "Correct the row."
            )
        if "" in names:
            _refuse_unnamed(number, names, row)
        yield row


def _csv_block(names: list[str], rows: list[list[str]]) -> RowBlock:
    columns = {}
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        if name:
            text = of_texts(values)
            columns[name] = text if name == "key" else _stripped(text)
    return RowBlock(columns, len(rows))


def _stripped(texts: pa.StringArray) -> pa.StringArray:
    """The same as `str.strip` of each."""
    if pc.any(pc.match_substring_regex(texts, r"\A[^!-~]|[^!-~]\z")).as_py():
        return of_texts([text.strip() for text in texts.to_pylist()])
    return texts


def _refuse_unnamed(number: int, names: list[str], row: list[str]) -> None:
    for column, (name, value) in enumerate(zip(names, row, strict=True), 1):
        if not name and value.strip():
            raise InputError(
                f"row {number} has {value!r} in column {column}, which has no name: give it "
                "a name to make it a tag, or remove it (`to_csv(index=False)` with pandas)."
            )


def read_parquet(place: Lake, name: str, limits: Limits = LIMITS) -> Iterator[RowBlock]:
    """Read a Parquet file's rows: keys, sizes and dates as stored, everything else as text.

    Raises:
        ConfigError: It is damaged, lacks the column ``key``, repeats a column name, or has a value
            in a tag column that cannot be text.
    """
    try:
        with (
            place.open_input(name) as stream,
            ParquetFront(stream, stream.seek(0, io.SEEK_END), limits) as front,
        ):
            fields = front.file.schema_arrow
            names = _columns(fields.names, limits)
            for column, field in zip(names, fields, strict=True):
                if column != "tags" and pa.types.is_nested(field.type):
                    raise InputError(
                        f"its column {field.name!r} is {type_of(field.type)}, which cannot be a "
                        "tag: remove the column, or store it as text."
                    )
            number = 0
            for block in in_blocks(front.batches(fields.names), weight, most=COLUMN_ROWS):
                yield from _parquet_blocks(number, names, block, limits)
                number += sum(batch.num_rows for batch in block)
    except TooMuchError as error:
        raise _unusable(place, name, f"it holds {error}.") from error
    except MemoryError as error:
        raise _unusable(place, name, "there is no memory to read it: divide it.") from error
    except (ConfigError, pa.ArrowException, OSError, ValueError) as error:
        raise _unusable(place, name, error) from error


def weight(batch: pa.RecordBatch) -> float:
    """How many rows a batch counts as: many, if they are large."""
    return float(max(batch.num_rows, bytes_of(batch) / BLOCK_BYTES * COLUMN_ROWS))


def _parquet_blocks(
    number: int, names: list[str], batches: list[pa.RecordBatch], limits: Limits
) -> Iterator[RowBlock]:
    """Yield batches as one block; if a value is bad, what is before it comes before its error."""
    try:
        whole = _parquet_block(number, names, pa.concat_batches(batches), limits)
    except (ConfigError, pa.ArrowException, ValueError):
        if len(batches) == 1:
            raise
    else:
        yield whole
        return
    for batch in batches:
        yield _parquet_block(number, names, batch, limits)
        number += batch.num_rows


def _parquet_block(
    number: int, names: list[str], batch: pa.RecordBatch, limits: Limits
) -> RowBlock:
    columns = {}
    for name, array in zip(names, batch.columns, strict=True):
        if not name:
            continue
        try:
            check_texts(array, limits)
            columns[name] = column_of(name, array)
        except BadValueError as error:
            raise InputError(
                f"row {number + error.index + 1}: its column {name!r} {error.what}. Correct the "
                "row, or remove it."
            ) from None
    return RowBlock(columns, batch.num_rows)


def _columns(written: Sequence[str], limits: Limits) -> list[str]:
    """The normalised column names; '' for a column without one."""
    if len(written) > len(KNOWN_COLUMNS) + limits.tags:
        raise InputError(
            f"it has {len(written):,} columns, of which each but {len(KNOWN_COLUMNS)} would be a "
            f"tag; at most {limits.tags:,} are read (limit tags). Remove some."
        )
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


def _unusable(place: Lake, name: str, error: Exception | str) -> ConfigError:
    return InputError(
        f"{place.uri(name)} cannot be used as a manifest: {error} Expected a Parquet file, or a "
        "CSV in UTF-8 with a header, that has a column 'key'; --input-limit raises limits."
    )
