"""The rows of CSV and Parquet manifests, as they stand there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake

BATCH_ROWS: Final = 8192
READ_BYTES: Final = 1 << 20

Row = dict[str, Any]
"""A row of a manifest by its columns' names."""


def read_csv(place: Lake, name: str) -> Iterator[Row]:
    """A CSV's rows, every value as text.

    Raises:
        ConfigError: It is not UTF-8, has no column ``key``, or a row of another length.
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
            reader = csv.DictReader(text, strict=True)
            _check_columns(reader.fieldnames or ())
            for number, row in enumerate(reader, 1):
                if None in row or None in row.values():
                    raise ConfigError(
                        f"row {number} does not have {len(reader.fieldnames or ())} columns like "
                        "the header."
                    )
                yield row
    except (ConfigError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(place, name, error) from error


def read_parquet(place: Lake, name: str) -> Iterator[Row]:
    """A Parquet file's rows.

    Raises:
        ConfigError: It is damaged or has no column ``key``.
    """
    try:
        with place.open_input(name) as stream, pq.ParquetFile(stream) as file:
            _check_columns(file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
    except (ConfigError, pa.ArrowException, OSError, ValueError) as error:
        raise _unusable(place, name, error) from error


def _check_columns(names: Sequence[str]) -> None:
    if "key" not in names:
        raise ConfigError(
            f"it has the columns {', '.join(map(repr, names)) or 'of no header'}, and none named "
            "'key'. If it holds the images themselves, give its folder as --images and its name as "
            "--key-pattern."
        )


def _unusable(place: Lake, name: str, error: Exception) -> ConfigError:
    return InputError(
        f"{place.uri(name)} cannot be used as a manifest: {error} Expected a Parquet file, or a "
        "CSV in UTF-8 with a header, that has a column 'key'."
    )
