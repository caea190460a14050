"""References to images of the lake, one at a time and many as Arrow columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from steel_batch import schema
from steel_batch.lake import LakeObject
from steel_batch.sources.dates import STRICT, date_of

BATCH_ROWS: Final = 16_384
IMAGES: Final = pa.schema(
    [*(f for f in schema.PLAN if f.name != "shard"), pa.field("date", pa.string())]
)
"""The fields of `ImageRef`, as the columns of many."""

NOT_A_FILE: Final = -1
"""`offset` of a member of a tar that is named like an image but is a folder, link or device."""
UNSAFE_NAME: Final = -2
"""`offset` of a member of a tar whose name is absolute or contains '..'."""
TOO_LARGE: Final = -3
"""`offset` of a sparse member of a tar that states more bytes than are read."""
SPARSE: Final = -512
"""An `offset` of this or less is a sparse member of a tar; its header begins at the negated value
and states where its data is. See `sparse_offset`."""


def sparse_offset(place: int) -> int:
    """Convert a sparse member's header position to its `offset`, or back."""
    return SPARSE - place


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image of the lake, before it is read."""

    image_key: str
    """The object's key under the lake's root; for a member of a container, ``key#member``."""
    image_id: str
    date: str | None
    line: str | None
    tags: dict[str, str] = field(default_factory=dict)
    object_key: str
    offset: int | None = None
    """First byte of the member in a tar, or its row in a Parquet file; negative for a member that
    is sparse (`SPARSE`) or cannot be read (`NOT_A_FILE`, `UNSAFE_NAME`, `TOO_LARGE`)."""
    bytes: int
    etag: str


def ref_of(fields: dict[str, str], item: LakeObject) -> ImageRef:
    """The reference of a single image, or of a container, from a key that matched a pattern."""
    tags = dict(fields)
    image_id = tags.pop("image_id", "")
    line = tags.pop("line", None)
    date = date_of(fields)
    for name in STRICT:
        tags.pop(name, None)
    return ImageRef(
        image_key=item.key, image_id=image_id, date=date, line=line, tags=tags,
        object_key=item.key, bytes=item.size_bytes, etag=item.etag,
    )  # fmt: skip


@runtime_checkable
class ImageColumns(Protocol):
    """Images that come as Arrow columns: by the million, one object for each costs too much."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield `IMAGES` batches of every image, in no particular order, holding few at a time."""


def ref_batches(
    images: ImageColumns | Iterable[ImageRef], of: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Images as Arrow batches with the given fields, holding few at a time."""
    if isinstance(images, ImageColumns):
        for batch in images.batches():
            columns = [batch.column(field.name) for field in of]
            yield pa.RecordBatch.from_arrays(columns, schema=of)
        return
    stream = iter(images)
    while rows := list(itertools.islice(stream, BATCH_ROWS)):
        columns = [
            [list(row.tags.items()) for row in rows]
            if field.name == "tags"
            else [getattr(row, field.name) for row in rows]
            for field in of
        ]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, of, strict=True)],
            schema=of,
        )


def repeated(text: str | None, num_rows: int) -> pa.StringArray:
    """A column with one value."""
    return pa.array([text], pa.string()).take(pa.array(np.zeros(num_rows, np.int64)))


def refs_of(batches: Iterable[pa.RecordBatch]) -> Iterator[ImageRef]:
    """The images of `IMAGES` batches, one at a time."""
    for batch in batches:
        for row in batch.to_pylist():
            yield ImageRef(**row | {"tags": dict(row["tags"])})


def in_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of about `BATCH_ROWS`, as each batch has a cost of its own."""
    pending: list[pa.RecordBatch] = []
    num_rows = 0
    for batch in batches:
        if batch.num_rows >= BATCH_ROWS and not pending:
            yield batch
            continue
        pending.append(batch)
        num_rows += batch.num_rows
        if num_rows >= BATCH_ROWS:
            yield pa.concat_batches(pending)
            pending, num_rows = [], 0
    if pending:
        yield pa.concat_batches(pending)
