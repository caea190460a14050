"""Reads an S3 Inventory: its `manifest.json` and the data files that it names.

The data files are in the inventory's destination bucket, the objects in its source bucket. On a
disk, both are the manifest's own folder.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

import pyarrow as pa

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, InputError, LargeObjectError
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json
from steel_batch.sources.columns import BadValueError, check_texts, values
from steel_batch.sources.lines import READ_BYTES, Lines, Unpacked
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
                f"{error.message} It is not the manifest of an S3 Inventory (limit index-bytes)."
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

    def rows(self) -> Iterator[dict[str, Any]]:
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
            "another day's inventory."
        )

    def _csv(self, stream: Any) -> Iterator[dict[str, Any]]:
        unpacked = io.BufferedReader(Unpacked(stream, self.limits), READ_BYTES)
        with io.TextIOWrapper(unpacked, "utf-8", newline="") as text:
            for values in Lines(text, self.limits).rows(strict=False):
                if len(values) != len(self.columns):
                    raise ValueError(
                        f"a row of {len(values)} columns, expected {len(self.columns)}"
                    )
                said = dict(zip(self.columns, values, strict=True))
                row = {ours: said[theirs] for theirs, ours in _OF_CSV.items() if theirs in said}
                row["key"] = unquote_plus(row["key"])
                if _is_current(row):
                    yield row

    def _parquet(self, stream: Any) -> Iterator[dict[str, Any]]:
        with ParquetFront(stream, stream.seek(0, io.SEEK_END), self.limits) as front:
            names = [name for name in _OF_PARQUET if name in front.file.schema_arrow.names]
            if "key" not in names:
                raise ValueError("it has no column 'key'")
            for group in range(len(front.num_rows)):
                _, batches = front.open_group(group, names)
                for batch in batches:
                    columns = [_values(batch.column(name), self.limits) for name in names]
                    for said in zip(*columns, strict=True):
                        row = dict(zip((_OF_PARQUET[name] for name in names), said, strict=True))
                        if _is_current(row):
                            yield row


def _check_bucket(place: Lake, name: str, bucket: str, allowed: Collection[str]) -> None:
    own = place.url.removeprefix("s3://").partition("/")[0]
    if bucket != own and bucket not in allowed:
        raise ConfigError(
            f"{place.uri(name)} is an S3 Inventory that refers to the bucket {bucket!r}. Without "
            f"--inventory-bucket it may only refer to its own bucket, {own!r}. To allow it, add "
            f"--inventory-bucket {bucket}."
        )


def _values(array: pa.Array, limits: Limits) -> list[Any]:
    """A column's values; text that was written as bytes is decoded."""
    try:
        check_texts(array, limits)
        return values(array)
    except BadValueError as error:
        raise ValueError(f"a column {error.what}") from error


def _is_current(row: dict[str, Any]) -> bool:
    """Whether the object exists and is current; removes the columns that state only that."""
    is_latest = row.pop("is_latest", None)
    is_deleted = row.pop("is_delete_marker", None)
    return str(is_latest).lower() != "false" and str(is_deleted).lower() != "true"
