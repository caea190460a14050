"""Puts listed images in the order of a plan: by line and key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.runs.external_sort import ExternalSort
from steel_batch.sources.parallel import expand_parallel

BATCH_ROWS: Final = 8192
LISTED: Final = pa.schema([f for f in schema.PLAN if f.name != "shard"])
"""What planning needs about listed images."""
SORTED: Final = LISTED.set(
    LISTED.get_field_index("object_key"), pa.field("object_key", pa.string())
)
"""The same while they are sorted: an object that is the image itself has no second key, so that a
third less is on disk."""


@dataclass(frozen=True, slots=True)
class InOrder:
    """Listed images in order."""

    batches: Iterator[pa.RecordBatch]
    num_images: int
    """Of all, whatever the limit is."""


@contextlib.contextmanager
def in_order(
    images: Iterable[pa.RecordBatch], fields: pa.Schema, limit: int | None
) -> Iterator[InOrder]:
    """Sort images; they are on disk until the block ends.

    Args:
        images: `SORTED` batches, which may have further columns.
        fields: Their schema.
        limit: How many of the sorted images are wanted; None for all.
    """
    with ExternalSort(fields, ("line", "image_key")) as sort:
        for batch in images:
            sort.add(batch)
        ahead = expand_parallel(iter([sort]), ExternalSort.rows, num_threads=1, chunk=1)
        with contextlib.closing(ahead) as rows:
            yield InOrder(_first(map(with_second_keys, rows), limit), sort.num_rows)


def _first(batches: Iterable[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if limit is not None and batch.num_rows >= limit:
            yield batch.slice(0, limit)
            return
        yield batch
        limit = None if limit is None else limit - batch.num_rows


def without_second_keys(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """From `LISTED` batches to `SORTED` batches."""
    place = SORTED.get_field_index("object_key")
    for batch in batches:
        columns = batch.columns
        is_itself = pc.equal(batch["object_key"], batch["image_key"])
        columns[place] = pc.if_else(is_itself, pa.NA, batch["object_key"])
        yield pa.RecordBatch.from_arrays(columns, schema=SORTED)


def with_second_keys(batch: pa.RecordBatch) -> pa.RecordBatch:
    """From a `SORTED` batch, which may have further columns, to a `LISTED` batch."""
    place = SORTED.get_field_index("object_key")
    keys = pc.coalesce(batch["object_key"], batch["image_key"])
    return batch.set_column(place, LISTED.field(place), keys)
