"""Puts listed images in the order of a plan: by line and key.

Few are sorted in memory, as DuckDB takes longer to open. Of many, what does not fit in DuckDB's
memory is on disk: once, and compressed as DuckDB compresses temporary files.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.database import reading, scratch_database

FEW_IMAGES: Final = 16_384
BATCH_ROWS: Final = 8192
LISTED: Final = pa.schema([f for f in schema.PLAN if f.name != "shard"])
"""What planning needs about listed images."""
SORTED: Final = LISTED.set(
    LISTED.get_field_index("object_key"), pa.field("object_key", pa.string())
)
"""The same while they are sorted: an object that is the image itself has no second key, so that a
third less is on disk."""
COLUMNS: Final = ", ".join(
    "coalesce(listed.object_key, listed.image_key) AS object_key"
    if name == "object_key"
    else f"listed.{name}"
    for name in LISTED.names
)
"""From ``listed``, a table of `SORTED` rows, to `LISTED`."""
ORDER: Final = "ORDER BY line NULLS FIRST, image_key"


@dataclass(frozen=True, slots=True)
class InOrder:
    """Listed images in order."""

    batches: Iterator[pa.RecordBatch]
    num_images: int
    """Of all, whatever the limit is."""


@contextlib.contextmanager
def in_order(listed: Iterable[pa.RecordBatch], limit: int | None) -> Iterator[InOrder]:
    """Sort images; they are on disk until the block ends.

    Args:
        listed: `LISTED` batches.
        limit: How many of the sorted images are wanted; None for all.
    """
    stream = iter(listed)
    few: list[pa.RecordBatch] = []
    num_images = 0
    for batch in stream:
        few.append(batch)
        num_images += batch.num_rows
        if num_images > FEW_IMAGES:
            break
    else:
        table = _sorted(pa.Table.from_batches(few, LISTED))
        yield InOrder(iter(table.slice(0, limit).to_batches()), num_images)
        return
    counted = _Counted(itertools.chain(few, stream))
    most = "" if limit is None else f" LIMIT {limit}"
    with (
        scratch_database() as con,
        # They are sorted as they are read: a table of them would only be written and read again.
        reading(con, "listed", SORTED, without_second_keys(counted)),
    ):
        query = f"SELECT {COLUMNS} FROM listed {ORDER}{most}"  # noqa: S608 - names and a number
        batches = iter(con.sql(query).to_arrow_reader(BATCH_ROWS))
        first = list(itertools.islice(batches, 1))  # then all have been read
        yield InOrder(itertools.chain(first, batches), counted.num_rows)


def _sorted(table: pa.Table) -> pa.Table:
    has_line = table["line"].is_valid()
    without = table.filter(pc.invert(has_line)).sort_by("image_key")
    others = table.filter(has_line).sort_by([("line", "ascending"), ("image_key", "ascending")])
    return pa.concat_tables([without, others]).combine_chunks()


class _Counted:
    """Batches, and how many rows have passed."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.num_rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.num_rows += batch.num_rows
            yield batch


def without_second_keys(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """From `LISTED` batches to `SORTED` batches."""
    place = SORTED.get_field_index("object_key")
    for batch in batches:
        columns = batch.columns
        is_itself = pc.equal(batch["object_key"], batch["image_key"])
        columns[place] = pc.if_else(is_itself, None, batch["object_key"])
        yield pa.RecordBatch.from_arrays(columns, schema=SORTED)
