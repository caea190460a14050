"""Groups Arrow rows of any number by a key: those with equal keys are in memory together.

Rows are put into buckets by a hash of their key. A part, as many rows as are kept in memory, is
written bucket by bucket; later a few buckets of all parts are read at once. A bucket that is too
large for that is put into buckets of its own, by other bits of the hash. So tables are joined, or
searched for duplicates, with some of their keys at a time, and memory does not grow with rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch import interrupt
from steel_batch.runs.packed_file import Block, PackedFile, empty
from steel_batch.sources.arrays import of_numbers

if TYPE_CHECKING:
    import duckdb

PART_BYTES: Final = 4 << 20
"""What is kept in memory of each table before it is written."""
GROUP_BYTES: Final = 8 << 20
"""What is read at once, or the rows of one key if that is more."""
NUM_BUCKETS: Final = 256


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows in the file, a block for each bucket, one after the other."""

    start: int
    num_bytes: npt.NDArray[np.uint32]
    """Of each block; a part has 4 MB of rows, and this is all that is kept of it."""
    unpacked_bytes: npt.NDArray[np.uint32]

    def blocks(self, buckets: range) -> Iterator[Block]:
        """The blocks of some buckets that have rows."""
        start = self.start + int(self.num_bytes[: buckets.start].sum())
        chosen = slice(buckets.start, buckets.stop)
        sizes = zip(
            self.num_bytes[chosen].tolist(), self.unpacked_bytes[chosen].tolist(), strict=True
        )
        for num_bytes, unpacked_bytes in sizes:
            if num_bytes:
                yield Block(start, num_bytes, unpacked_bytes)
            start += num_bytes


@dataclass(slots=True)
class _Rows:
    """The rows of one table."""

    fields: pa.Schema
    key: str
    pending: list[pa.RecordBatch] = field(default_factory=list)
    pending_bytes: int = 0
    parts: list[_Part] = field(default_factory=list)


class Partitions:
    """Groups the rows that are added; the `with` block holds a temporary file, if it needs one.

    Args:
        con: A scratch database, which computes the hashes.
        tables: For each table its schema, and the key: expressions of SQL over its columns. Keys of
            all tables have the same types.
        part_bytes: How much of each table is kept in memory before it is written.
        group_bytes: How much is read at once.
        num_buckets: At most 256.
        divisor: The hash is divided by it before its remainder is the bucket.

    Raises:
        LakeError: The disk of temporary files is full; raised by each method.
        Interrupted: A signal requested a stop; the same.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        tables: Mapping[str, tuple[pa.Schema, str]],
        *,
        part_bytes: int = PART_BYTES,
        group_bytes: int = GROUP_BYTES,
        num_buckets: int = NUM_BUCKETS,
        divisor: int = 1,
    ) -> None:
        self._con = con
        self._tables = {name: _Rows(fields, key) for name, (fields, key) in tables.items()}
        self._part_bytes, self._group_bytes = part_bytes, group_bytes
        self._num_buckets, self._divisor = num_buckets, divisor
        self._file = PackedFile("lz4")

    def __enter__(self) -> Partitions:
        """Nothing is opened yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the temporary file."""
        self._file.close()

    def add(self, table: str, batch: pa.RecordBatch) -> None:
        """Take some more rows of a table."""
        interrupt.check()
        rows = self._tables[table]
        rows.pending.append(batch)
        rows.pending_bytes += batch.nbytes
        if rows.pending_bytes >= self._part_bytes:
            self._write_part(rows)

    def groups(self) -> Iterator[dict[str, pa.RecordBatch]]:
        """Yield the rows of all tables with some of the keys, until all keys were there once.

        It may be called again, also after more rows were added.
        """
        if not self._file.is_used:
            yield {name: _pending(rows) for name, rows in self._tables.items()}
            return
        for rows in self._tables.values():
            if rows.pending:
                self._write_part(rows)
        sizes = sum(
            (part.unpacked_bytes for rows in self._tables.values() for part in rows.parts),
            start=np.zeros(self._num_buckets, np.int64),
        )
        # If most rows are in one bucket, they have the same key: it would not become smaller.
        most = max(self._group_bytes, int(sizes.sum()) // 2)
        first = num_bytes = 0
        for bucket, size in enumerate(sizes.tolist()):
            if num_bytes and num_bytes + size > self._group_bytes:
                yield self._read(range(first, bucket))
                first, num_bytes = bucket, 0
            if self._group_bytes < size <= most:
                yield from self._split(bucket, size)
                first = bucket + 1
            else:
                num_bytes += size
        yield self._read(range(first, self._num_buckets))

    def _split(self, bucket: int, num_bytes: int) -> Iterator[dict[str, pa.RecordBatch]]:
        """Yield the rows of one bucket in several groups."""
        num_buckets = min(NUM_BUCKETS, 2 * -(-num_bytes // self._group_bytes))
        with Partitions(
            self._con,
            {name: (rows.fields, rows.key) for name, rows in self._tables.items()},
            part_bytes=self._part_bytes,
            group_bytes=self._group_bytes,
            num_buckets=num_buckets,
            divisor=self._divisor * self._num_buckets,
        ) as smaller:
            for name, rows in self._tables.items():
                for batch in self._rows_in(rows, range(bucket, bucket + 1)):
                    smaller.add(name, batch)
            yield from smaller.groups()

    def _write_part(self, rows: _Rows) -> None:
        pending = pa.Table.from_batches(rows.pending, rows.fields)
        rows.pending, rows.pending_bytes = [], 0
        buckets = self._buckets(pending, rows.key)
        order = np.argsort(buckets, kind="stable")
        edges = np.searchsorted(buckets[order], np.arange(self._num_buckets + 1)).tolist()
        places = of_numbers(order)
        sorted_rows = pa.RecordBatch.from_arrays(
            [pa.concat_arrays(column.chunks).take(places) for column in pending.columns],
            schema=rows.fields,
        )
        part = _Part(self._file.end, *np.zeros((2, self._num_buckets), np.uint32))
        for bucket, (start, stop) in enumerate(itertools.pairwise(edges)):
            if start < stop:
                block = self._file.write(sorted_rows.slice(start, stop - start))
                part.num_bytes[bucket] = block.num_bytes
                part.unpacked_bytes[bucket] = block.unpacked_bytes
        rows.parts.append(part)

    def _buckets(self, rows: pa.Table, key: str) -> npt.NDArray[np.uint8]:
        """The bucket of each row."""
        numbers = of_numbers(np.arange(rows.num_rows))
        self._con.register("part", rows.append_column("number of row", numbers))
        try:
            found = self._con.execute(
                f'SELECT "number of row" AS row, hash({key}) AS hash FROM part'  # noqa: S608 - ours
            ).fetchnumpy()
        finally:
            self._con.unregister("part")
        buckets = np.empty(rows.num_rows, np.uint8)
        buckets[found["row"]] = found["hash"] // self._divisor % self._num_buckets
        return buckets

    def _read(self, buckets: range) -> dict[str, pa.RecordBatch]:
        interrupt.check()
        return {
            name: pa.concat_batches([empty(rows.fields), *self._rows_in(rows, buckets)])
            for name, rows in self._tables.items()
        }

    def _rows_in(self, rows: _Rows, buckets: range) -> Iterator[pa.RecordBatch]:
        """The rows of a table in some buckets."""
        for part in rows.parts:
            for block in part.blocks(buckets):
                yield self._file.read(block, rows.fields)


def _pending(rows: _Rows) -> pa.RecordBatch:
    return pa.concat_batches([empty(rows.fields), *rows.pending])
