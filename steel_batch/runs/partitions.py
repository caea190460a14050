"""Groups Arrow rows of any number by a key: those with equal keys are in memory together.

Rows are put into buckets by a hash of their key. A part, as many rows as are kept in memory, is
written bucket by bucket; later a few buckets of all parts are read at once. A bucket that is too
large for that is put into smaller ones, by more of the hash. So tables are joined, or searched for
duplicates, with some of their keys at a time, and memory does not grow with rows.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch import interrupt
from steel_batch.runs.packed_file import Block, PackedFile, empty, rows_of
from steel_batch.sources.arrays import of_numbers

if TYPE_CHECKING:
    import duckdb

PART_BYTES: Final = 16 << 20
"""What is kept in memory of each table before it is written."""
GROUP_BYTES: Final = 8 << 20
"""What is read at once, or the rows of one key if that is more."""
NUM_BUCKETS: Final = 512
"""Twice as many cost 0.2 s of CPU more per million images; half as many are put into smaller ones
from 10 million, which costs 0.3."""
NUM_SMALLER: Final = 256
"""Most buckets that one bucket is put into: 1 TB of rows are in groups of the size above."""
_UNUSED_BITS: Final = 20
"""DuckDB's joins place rows by the lowest bits: a bucket's rows would be in each other's way."""
_MORE: Final = pa.field("more of the hash", pa.uint8())


@dataclass(slots=True)
class _Rows:
    """The rows of one table that are not written."""

    fields: pa.Schema
    key: str
    pending: list[pa.RecordBatch] = field(default_factory=list)
    pending_bytes: int = 0


class Partitions:
    """Groups the rows that are added; the `with` block holds a temporary file, if it needs one.

    Args:
        con: A scratch database, which computes the hashes.
        tables: For each table its schema, and the key: expressions of SQL over its columns. Keys of
            all tables have the same types. If the rows of one key may have 2 GiB of text in a
            column, that is ``large_string``.
        part_bytes: How much of each table is kept in memory before it is written.
        group_bytes: How much is read at once.
        num_buckets: How many buckets there are.

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
    ) -> None:
        self._con = con
        self._tables = {name: _Rows(fields, key) for name, (fields, key) in tables.items()}
        self._part_bytes, self._group_bytes = part_bytes, group_bytes
        self._written = _Buckets({n: of.fields for n, of in self._tables.items()}, num_buckets)

    def __enter__(self) -> Partitions:
        """Nothing is opened yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the temporary file."""
        self._written.file.close()

    def add(self, table: str, batch: pa.RecordBatch) -> None:
        """Take some more rows of a table."""
        interrupt.check()
        rows = self._tables[table]
        rows.pending.append(batch)
        rows.pending_bytes += batch.nbytes
        if rows.pending_bytes >= self._part_bytes:
            self._write_part(table)

    def groups(self) -> Iterator[dict[str, pa.RecordBatch]]:
        """Yield the rows of all tables with some of the keys, until all keys were there once.

        It may be called again, also after more rows were added.
        """
        num_pending = sum(rows.pending_bytes for rows in self._tables.values())
        if not self._written.file.is_used and num_pending <= self._group_bytes:
            yield {
                name: pa.concat_batches([empty(rows.fields), *rows.pending])
                for name, rows in self._tables.items()
            }
            return
        for table in self._tables:
            self._write_part(table)
        for buckets, num_bytes in self._written.ranges(self._group_bytes):
            if num_bytes > self._group_bytes:
                yield from self._split(buckets, num_bytes)
            else:
                yield self._written.read_all(buckets)

    def _split(self, bucket: range, num_bytes: int) -> Iterator[dict[str, pa.RecordBatch]]:
        """Yield the rows of one bucket in several groups."""
        num_smaller = min(NUM_SMALLER, 2 * -(-num_bytes // self._group_bytes))
        fields = {name: rows.fields for name, rows in self._tables.items()}
        smaller = _Buckets(fields, num_smaller, is_packed=False)
        with contextlib.closing(smaller.file):
            for table in self._tables:
                for rows in self._written.read(table, bucket, self._group_bytes):
                    more = rows.column(_MORE.name).to_numpy()
                    smaller.write(table, rows, more.astype(np.uint16) * num_smaller // NUM_SMALLER)
            for buckets, _ in smaller.ranges(self._group_bytes):
                yield smaller.read_all(buckets)

    def _write_part(self, table: str) -> None:
        rows = self._tables[table]
        pending = pa.Table.from_batches(rows.pending, rows.fields)
        rows.pending, rows.pending_bytes = [], 0
        if not pending.num_rows:
            return
        hashes = self._hashes(pending, rows.key)
        num_buckets = self._written.num_buckets
        more = pa.array((hashes // num_buckets % NUM_SMALLER).astype(np.uint8))
        columns = [pa.concat_arrays(column.chunks) for column in pending.columns]
        with_more = pa.RecordBatch.from_arrays([*columns, more], schema=rows.fields.append(_MORE))
        self._written.write(table, with_more, (hashes % num_buckets).astype(np.uint16))

    def _hashes(self, rows: pa.Table, key: str) -> npt.NDArray[np.uint64]:
        """The hash of the key of each row."""
        numbers = of_numbers(np.arange(rows.num_rows))
        self._con.register("part", rows.append_column("number of row", numbers))
        try:
            found = self._con.execute(
                f'SELECT "number of row" AS row, hash({key}) AS hash FROM part'  # noqa: S608 - ours
            ).fetchnumpy()
        finally:
            self._con.unregister("part")
        hashes = np.empty(rows.num_rows, np.uint64)
        hashes[found["row"]] = found["hash"] >> _UNUSED_BITS
        return hashes


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows in the file, a block for each bucket, one after the other."""

    start: int
    num_bytes: npt.NDArray[np.uint32]
    """Of each block. This is all that is kept of a part: 4 kB of one of 16 MB."""
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


class _Buckets:
    """Rows of several tables in a temporary file, by bucket.

    Args:
        tables: The schema of each table; rows in the file have a column more.
        num_buckets: How many there are.
        is_packed: Whether rows are compressed.
    """

    def __init__(
        self, tables: Mapping[str, pa.Schema], num_buckets: int, *, is_packed: bool = True
    ) -> None:
        self.num_buckets = num_buckets
        self.file = PackedFile("lz4" if is_packed else None)
        self._tables = tables
        self._parts: dict[str, list[_Part]] = {table: [] for table in tables}

    def write(self, table: str, rows: pa.RecordBatch, buckets: npt.NDArray[np.uint16]) -> None:
        """Write a part: rows with the bucket of each."""
        order = np.argsort(buckets, kind="stable")
        edges = np.searchsorted(buckets[order], np.arange(self.num_buckets + 1)).tolist()
        sorted_rows = rows_of(rows, of_numbers(order))
        part = _Part(self.file.end, *np.zeros((2, self.num_buckets), np.uint32))
        for bucket, (start, stop) in enumerate(itertools.pairwise(edges)):
            if start < stop:
                block = self.file.write(sorted_rows.slice(start, stop - start))
                part.num_bytes[bucket] = block.num_bytes
                part.unpacked_bytes[bucket] = block.unpacked_bytes
        self._parts[table].append(part)

    def ranges(self, most_bytes: int) -> Iterator[tuple[range, int]]:
        """Ranges of all buckets with their bytes, each of one bucket or of few bytes."""
        sizes = sum(
            (part.unpacked_bytes for parts in self._parts.values() for part in parts),
            start=np.zeros(self.num_buckets, np.int64),
        )
        first = num_bytes = 0
        for bucket, size in enumerate(sizes.tolist()):
            if num_bytes and num_bytes + size > most_bytes:
                yield range(first, bucket), num_bytes
                first, num_bytes = bucket, 0
            num_bytes += size
        yield range(first, self.num_buckets), num_bytes

    def read(self, table: str, buckets: range, at_once_bytes: int) -> Iterator[pa.RecordBatch]:
        """The rows of some buckets, some at a time, as they were written."""
        fields = self._tables[table].append(_MORE)
        batches, num_bytes = [empty(fields)], 0
        for part in self._parts[table]:
            for block in part.blocks(buckets):
                batches.append(self.file.read(block, fields))
                num_bytes += block.unpacked_bytes
                if num_bytes >= at_once_bytes:
                    interrupt.check()
                    yield pa.concat_batches(batches)
                    batches, num_bytes = [empty(fields)], 0
        yield pa.concat_batches(batches)

    def read_all(self, buckets: range) -> dict[str, pa.RecordBatch]:
        """The rows of all tables in some buckets."""
        interrupt.check()
        found = {}
        for table, fields in self._tables.items():
            (rows,) = self.read(table, buckets, sys.maxsize)
            found[table] = pa.RecordBatch.from_arrays(rows.columns[:-1], schema=fields)
        return found
