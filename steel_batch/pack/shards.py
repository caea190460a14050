"""Which images go into which shard: one line and date each, in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import duckdb
import pyarrow as pa

from steel_batch import schema
from steel_batch.errors import InputError
from steel_batch.pack.writers import END_BYTES, tar_bytes

Format = Literal["tar", "parquet"]
FORMATS: Final = get_args(Format)
MAX_SHARD_IMAGES: Final = 100_000
IMAGE_FIELDS: Final = pa.schema(
    [pa.field("date", pa.string()), *(f for f in schema.PLAN if f.name != "shard")]
)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that is to be there."""

    key: str
    refs: pa.Table


def cut_shards(con: duckdb.DuckDBPyConnection, form: Format, shard_bytes: int) -> Iterator[Shard]:
    """Yield shards of one line and date each, as large as allowed, in order.

    Args:
        con: A database whose table ``images`` has `IMAGE_FIELDS`.
        form: What the shards are to be.
        shard_bytes: Maximum size of a shard; a larger image gets its own shard.

    Raises:
        InputError: A line cannot be a folder's name.
    """
    reader = con.sql(
        "SELECT * FROM images ORDER BY date NULLS FIRST, line NULLS FIRST, image_key"
    ).to_arrow_reader(8192)
    rows: list[dict[str, Any]] = []
    folder, number, num_bytes = "", 0, END_BYTES
    for batch in reader:
        for row in batch.to_pylist():
            size = row["bytes"]
            if form == "tar":
                size = tar_bytes(row["image_key"], size)
            place = folder_of(row)
            is_full = num_bytes + size > shard_bytes or len(rows) == MAX_SHARD_IMAGES
            if rows and (place != folder or is_full):
                yield _shard(folder, number, form, rows)
                number += 1
                rows, num_bytes = [], END_BYTES
            if place != folder:
                folder, number = place, 0
            rows.append(row)
            num_bytes += size
    yield _shard(folder, number, form, rows)


def _shard(folder: str, number: int, suffix: str, rows: list[dict[str, Any]]) -> Shard:
    key = f"{folder}shard-{number:05d}.{suffix}"
    return Shard(key, pa.Table.from_pylist(rows, schema=IMAGE_FIELDS))


def folder_of(row: dict[str, Any]) -> str:
    """The folder of an image's shard, ending in '/'; '' for an image without a line and date.

    Raises:
        InputError: The line cannot be a folder's name.
    """
    parts = [f"{name}={row[name]}/" for name in ("line", "date") if row[name] is not None]
    if any(part.count("/") > 1 or "\\" in part or "\0" in part for part in parts):
        raise InputError(
            f"{row['image_key']} has the line {row['line']!r}, which cannot be a folder's name: "
            "change --key-pattern so that the line has no '/', '\\' or NUL."
        )
    return "".join(parts)
