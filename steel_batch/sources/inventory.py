"""Reads an S3 Inventory: its `manifest.json` and the data files that it names.

The data files are in the inventory's destination bucket, the objects in its source bucket. On a
disk, both are the manifest's own folder.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake
from steel_batch.sources.columns import BadValueError, values

BATCH_ROWS: Final = 8192
_OF_CSV: Final = {
    "Key": "key", "Size": "size", "ETag": "etag", "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}  # fmt: skip
_OF_PARQUET: Final = {
    "key": "key", "size": "size", "e_tag": "etag", "is_latest": "is_latest",
    "is_delete_marker": "is_delete_marker",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One report of a bucket's objects. Only current versions are used."""

    lake: Lake
    """The bucket that the report lists."""
    data: Lake
    """The bucket or folder that holds the data files."""
    files: Sequence[str]
    columns: Sequence[str]
    """Columns of its CSV files, which have no header; empty for Parquet."""

    @classmethod
    def open(cls, place: Lake, name: str) -> Inventory:
        """Read a `manifest.json`.

        Raises:
            ConfigError: It is not an inventory's manifest, or its format is not supported.
        """
        try:
            document = json.loads(place.read(name))
            kind = document["fileFormat"].lower()
            files = [str(file["key"]) for file in document["files"]]
            columns = [column.strip() for column in document["fileSchema"].split(",")]
            buckets = [
                str(document[key]).rpartition(":")[2]
                for key in ("sourceBucket", "destinationBucket")
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise InputError(
                f"{place.uri(name)} is not the manifest of an S3 Inventory: {reason}. A manifest "
                "of your own must end in .csv or .parquet."
            ) from error
        if kind not in ("csv", "parquet") or (kind == "csv" and "Key" not in columns):
            raise ConfigError(
                f"{place.uri(name)} is an S3 Inventory in the format {document['fileFormat']}; "
                "expected Parquet, or CSV with a Key: set the inventory to one of them."
            )
        lake, data = (
            [Lake(f"s3://{bucket}", endpoint_url=place.endpoint_url) for bucket in buckets]
            if place.is_s3
            else [place, place]
        )
        return cls(lake=lake, data=data, files=files, columns=columns if kind == "csv" else ())

    def rows(self) -> Iterator[dict[str, Any]]:
        """`key`, `size` and `etag` of every object, as far as the inventory states them.

        Raises:
            ConfigError: A data file is damaged.
            LakeError: A data file is missing.
        """
        for file in self.files:
            try:
                with self.data.open_input(file) as stream:
                    yield from self._csv(stream) if self.columns else _parquet(stream)
            except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as error:
                raise InputError(
                    f"{self.data.uri(file)}, a part of the inventory, is damaged ({error}): "
                    "nothing was planned. Use another day's inventory."
                ) from error

    def _csv(self, stream: Any) -> Iterator[dict[str, Any]]:
        with (
            gzip.open(io.BufferedReader(stream, 1 << 20)) as plain,
            io.TextIOWrapper(plain, "utf-8", newline="") as text,
        ):
            for values in csv.reader(text):
                if len(values) != len(self.columns):
                    raise ValueError(
                        f"a row of {len(values)} columns, expected {len(self.columns)}"
                    )
                said = dict(zip(self.columns, values, strict=True))
                row = {ours: said[theirs] for theirs, ours in _OF_CSV.items() if theirs in said}
                row["key"] = unquote_plus(row["key"])
                if _is_current(row):
                    yield row


def _parquet(stream: Any) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(stream) as file:
        names = [name for name in _OF_PARQUET if name in file.schema_arrow.names]
        if "key" not in names:
            raise ValueError("it has no column 'key'")
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            columns = [_values(batch.column(name)) for name in names]
            for said in zip(*columns, strict=True):
                row = dict(zip((_OF_PARQUET[name] for name in names), said, strict=True))
                if _is_current(row):
                    yield row


def _values(array: pa.Array) -> list[Any]:
    """A column's values; text that was written as bytes is decoded."""
    try:
        return values(array)
    except BadValueError as error:
        raise ValueError(f"a column {error.what}") from error


def _is_current(row: dict[str, Any]) -> bool:
    """Whether the object exists and is current; removes the columns that state only that."""
    is_latest = row.pop("is_latest", None)
    is_deleted = row.pop("is_delete_marker", None)
    return str(is_latest).lower() != "false" and str(is_deleted).lower() != "true"
