"""One image of the lake before it is read, and many of them as Arrow columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from steel_batch.lake import LakeObject
from steel_batch.sources.dates import STRICT, date_of

BATCH_ROWS: Final = 8192

NOT_A_FILE: Final = -1
"""The `offset` of a tar's member that is named like an image, but is a folder, link or device."""
UNSAFE_NAME: Final = -2
"""The `offset` of a tar's member whose name is absolute or has '..' in it."""
TOO_LARGE: Final = -3
"""The `offset` of a tar's sparse member that states more bytes than are read."""
SPARSE: Final = -512
"""An `offset` from here on down is that of a tar's sparse member, whose header begins at minus so
much: what lies where, it says itself. See `sparse_offset`."""


def sparse_offset(place: int) -> int:
    """The `offset` of a sparse member from its header's first byte, and the other way round."""
    return SPARSE - place


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image of the lake, before it is read."""

    image_key: str
    """The object's key below the lake's root; for a member of a container, ``key#member``."""
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
    """The reference of one loose image, or of a container, whose key matched a pattern."""
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


def ref_batches(refs: Iterable[ImageRef], of: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Images as Arrow batches of some of their fields; few are held at a time."""
    stream = iter(refs)
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
