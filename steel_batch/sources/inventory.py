"""Reads an S3 Inventory: its `manifest.json` and the data files that it names.

The data files are in the inventory's destination bucket, the objects in its source bucket. On a
disk, both are the manifest's own folder.
"""

from __future__ import annotations

import csv
import functools
import io
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, InputError, LargeObjectError
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json
from steel_batch.sources.columns import BadValueError, check_texts
from steel_batch.sources.lines import READ_BYTES, Lines, Unpacked, in_blocks
from steel_batch.sources.manifest_columns import RowBlock, column_of
from steel_batch.sources.manifest_rows import COLUMN_ROWS, weight
from steel_batch.sources.parquet_front import ParquetFront, TooMuchError

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
    limits: Limits = LIMITS

    @classmethod
    def open(
        cls, place: Lake, name: str, *, limits: Limits = LIMITS, buckets: Collection[str] = ()
    ) -> Inventory:
        """Read a `manifest.json`.

        Args:
            place: The bucket or folder of the manifest.
            name: The manifest's name there.
            limits: The limits of reading it.
            buckets: Other buckets that it may refer to.

        Raises:
            ConfigError: It is not an inventory's manifest, its format is not supported, or it names
                a bucket that is not allowed: the author of a manifest must not decide what this
                job reads.
        """
        try:
            document = parse_json(place.read(name, max_bytes=limits.index_bytes))
            kind = document["fileFormat"].lower()
            files = [str(file["key"]) for file in document["files"]]
            columns = [column.strip() for column in document["fileSchema"].split(",")]
            named = [
                str(document[key]).rpartition(":")[2]
                for key in ("sourceBucket", "destinationBucket")
            ]
        except LargeObjectError as error:
            raise InputError(
                f"{error.message} It is not the manifest of an S3 Inventory (limit index-bytes). "
                "Give --images a list of that kind."
            ) from error
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
        for bucket in named if place.is_s3 else ():
            _check_bucket(place, name, bucket, buckets)
        lake, data = (
            [Lake(f"s3://{bucket}", endpoint_url=place.endpoint_url) for bucket in named]
            if place.is_s3
            else [place, place]
        )
        return cls(
            lake=lake,
            data=data,
            files=files,
            columns=columns if kind == "csv" else (),
            limits=limits,
        )

    def rows(self) -> Iterator[RowBlock]:
        """`key`, `size` and `etag` of every object, as far as the inventory states them.

        Raises:
            ConfigError: A data file is damaged.
            LakeError: A data file is missing.
        """
        for file in self.files:
            try:
                with self.data.open_input(file) as stream:
                    yield from self._csv(stream) if self.columns else self._parquet(stream)
            except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as error:
                raise self._unusable(file, f"is damaged ({error})") from error
            except (InputError, TooMuchError) as error:
                raise self._unusable(file, f"holds {str(error).rstrip('.')}") from error
            except (MemoryError, zlib.error) as error:
                raise self._unusable(file, f"cannot be unpacked ({error})") from error

    def _unusable(self, file: str, what: str) -> InputError:
        return InputError(
            f"{self.data.uri(file)}, a part of the inventory, {what}: nothing was planned. Use "
            "another day's inventory, or where a limit is named, a greater --input-limit."
        )

    def _csv(self, stream: Any) -> Iterator[RowBlock]:
        unpacked = io.BufferedReader(Unpacked(stream, self.limits), READ_BYTES)
        with io.TextIOWrapper(unpacked, "utf-8", newline="") as text:
            places = {theirs: place for place, theirs in enumerate(self.columns)}
            rows = Lines(text, self.limits).rows(strict=False)
            for block in in_blocks(self._checked(rows)):
                columns = {
                    ours: pa.array([row[places[theirs]] for row in block], pa.string())
                    for theirs, ours in _OF_CSV.items()
                    if theirs in places
                }
                keys = [unquote_plus(key) for key in columns["key"].to_pylist()]
                columns["key"] = pa.array(keys, pa.string())
                yield _current(columns)

    def _checked(self, rows: Iterator[list[str]]) -> Iterator[list[str]]:
        for row in rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} columns, expected {len(self.columns)}")
            yield row

    def _parquet(self, stream: Any) -> Iterator[RowBlock]:
        with ParquetFront(stream, stream.seek(0, io.SEEK_END), self.limits) as front:
            names = [name for name in _OF_PARQUET if name in front.file.schema_arrow.names]
            if "key" not in names:
                raise ValueError("it has no column 'key'")
            for block in in_blocks(front.batches(names), weight, most=COLUMN_ROWS):
                batch = pa.concat_batches(block)
                columns = {
                    _OF_PARQUET[name]: _column(name, batch.column(name), self.limits)
                    for name in names
                }
                yield _current(columns)


def _check_bucket(place: Lake, name: str, bucket: str, allowed: Collection[str]) -> None:
    own = place.url.removeprefix("s3://").partition("/")[0]
    if bucket != own and bucket not in allowed:
        raise ConfigError(
            f"{place.uri(name)} is an S3 Inventory that refers to the bucket {bucket!r}. Without "
            f"--inventory-bucket it may only refer to its own bucket, {own!r}. To allow it, add "
            f"--inventory-bucket {bucket}."
        )


def _column(name: str, array: pa.Array, limits: Limits) -> pa.Array:
    """A column's values; text that was written as bytes is decoded."""
    try:
        check_texts(array, limits)
        return column_of(_OF_PARQUET[name], array)
    except BadValueError as error:
        raise ValueError(f"a column {error.what}") from error


def _current(columns: dict[str, pa.Array]) -> RowBlock:
    """The objects that exist and are current, without the columns that state only that."""
    flags = [
        (columns.pop(name), word)
        for name, word in (("is_latest", "false"), ("is_delete_marker", "true"))
        if name in columns
    ]
    if flags:
        masks = [
            pc.fill_null(pc.not_equal(pc.utf8_lower(texts), word), True) for texts, word in flags
        ]
        is_current = functools.reduce(pc.and_, masks)
        columns = {name: column.filter(is_current) for name, column in columns.items()}
    return RowBlock(columns, len(columns["key"]))
