"""A temporary file of Arrow rows, in blocks that are compressed one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import pyarrow as pa

from steel_batch.database import ScratchFile, scratch_file


class Block(NamedTuple):
    """Where some rows are in the file."""

    start: int
    num_bytes: int
    unpacked_bytes: int


class PackedFile:
    """Rows on disk, until it is closed; the file is made when something is written.

    Args:
        codec: How blocks are compressed: "lz4" takes half the time of "zstd", and half as much
            again on disk; None for rows that are read back at once.

    Raises:
        LakeError: The disk of temporary files is full.
    """

    def __init__(self, codec: Literal["lz4", "zstd"] | None) -> None:
        self._codec = None if codec is None else pa.Codec(codec)
        self._file: ScratchFile | None = None
        self._held = contextlib.ExitStack()

    def close(self) -> None:
        """Delete the file."""
        self._held.close()

    @property
    def is_used(self) -> bool:
        """Whether something was written."""
        return self._file is not None

    @property
    def end(self) -> int:
        """Where the next block will start."""
        return 0 if self._file is None else self._file.end

    def write(self, rows: pa.RecordBatch) -> Block:
        """Append some rows."""
        if self._file is None:
            self._file = self._held.enter_context(scratch_file())
        data = rows.serialize()
        packed = data if self._codec is None else self._codec.compress(data, asbytes=True)
        start = self._file.end
        self._file.append(packed)
        return Block(start, len(packed), data.size)

    def read(self, block: Block, fields: pa.Schema) -> pa.RecordBatch:
        """Read rows of a schema back."""
        if self._file is None:
            raise ValueError("nothing was written")
        packed = self._file.read(block.start, block.num_bytes)
        data = (
            packed if self._codec is None else self._codec.decompress(packed, block.unpacked_bytes)
        )
        return pa.ipc.read_record_batch(data, fields)


def taken(batch: pa.RecordBatch, order: pa.Array, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield rows in an order, some at a time."""
    for start in range(0, len(order), rows):
        yield rows_of(batch, order.slice(start, rows))


def rows_of(batch: pa.RecordBatch, order: pa.Array) -> pa.RecordBatch:
    """The rows at some places."""
    # Column by column takes a quarter of the time of all at once.
    columns = [column.take(order) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def empty(fields: pa.Schema) -> pa.RecordBatch:
    """No rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in fields], schema=fields)
