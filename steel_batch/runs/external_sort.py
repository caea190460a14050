"""Sorts Arrow rows of any number: by parts, which wait in a temporary file until they are merged.

A part is as many rows as are sorted in memory. It is written in blocks, each compressed by itself:
sorted keys resemble their neighbours, so that little is on disk. To merge, the blocks of all parts
are read in the order of their first rows; rows up to the first one of the next block are complete.
Merging needs a block of each part in memory, so many parts are merged into one before more follow.
A part is sorted and written in a thread, while the rows of the next one are added.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import interrupt
from steel_batch.runs.packed_file import Block, PackedFile, empty, rows_of, taken
from steel_batch.sources.arrays import of_numbers

PART_BYTES: Final = 16 << 20
"""What is sorted in memory."""
BLOCK_BYTES: Final = 128 << 10
"""What is compressed at once; while parts are merged, a block or two of each are in memory."""
MIN_STEP: Final = 64
"""Blocks that are merged at once, if there are few parts."""
MOST_PARTS: Final = 128
"""Parts that are merged into a larger one: some 2 GB of rows, or 20 million images of a plan."""
BATCH_ROWS: Final = 8192
"""Also the rows of a block of a larger part."""

Place = tuple[tuple[bool, Any], ...]
"""A row's values of the columns that rows are sorted by; null comes first."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Some rows in a temporary file."""

    first: Place
    block: Block
    file: PackedFile


class ExternalSort:
    """Sorts the rows that are added; the `with` block holds its temporary file, if it needs one.

    Args:
        fields: The rows' schema.
        by: Names of the text columns that rows are sorted by, in the order of their bytes; nulls
            come first.
        part_bytes: How much is sorted in memory.
        block_bytes: How much is compressed at once.
        most_parts: How many parts are merged into a larger one.

    Raises:
        LakeError: The disk of temporary files is full; raised by each method.
        Interrupted: A signal requested a stop; the same.
    """

    def __init__(
        self,
        fields: pa.Schema,
        by: Sequence[str],
        *,
        part_bytes: int = PART_BYTES,
        block_bytes: int = BLOCK_BYTES,
        most_parts: int = MOST_PARTS,
    ) -> None:
        self.num_rows = 0
        self._fields, self._by = fields, list(by)
        self._part_bytes, self._block_bytes = part_bytes, block_bytes
        self._most_parts = most_parts
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._parts: list[list[_Sorted]] = []
        self._larger: list[list[_Sorted]] = []
        self._file = PackedFile("zstd")
        self._held = contextlib.ExitStack()
        self._writer = ThreadPoolExecutor(1, "sort")
        self._writing: Future[None] | None = None

    def __enter__(self) -> ExternalSort:
        """Nothing is opened yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the temporary files."""
        self._writer.shutdown()
        self._file.close()
        self._held.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take some more rows."""
        interrupt.check()
        self.num_rows += batch.num_rows
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= self._part_bytes:
            self._write_pending()

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order; call it once, after everything is added."""
        if self._writing is None:
            batch, order = self._sorted(self._pending)
            yield from taken(batch, order, BATCH_ROWS)
            return
        if self._pending:
            self._write_pending()
        self._writing.result()
        yield from self._merged([*self._larger, *self._parts])

    def _write_pending(self) -> None:
        if self._writing is not None:
            self._writing.result()
        self._writing = self._writer.submit(self._write_part, self._pending)
        self._pending, self._pending_bytes = [], 0

    def _sorted(self, batches: list[pa.RecordBatch]) -> tuple[pa.RecordBatch, pa.Array]:
        batch = pa.concat_batches(batches or [empty(self._fields)])
        return batch, self._order(batch)

    def _order(self, batch: pa.RecordBatch) -> pa.Array:
        columns: dict[str, pa.Array] = {}
        for name in self._by:
            column = batch[name]
            if 0 < column.null_count < len(column):
                columns[f"{name} is there"] = column.is_valid()
            if column.null_count < len(column):
                columns[name] = column
        if not columns:
            return of_numbers(np.arange(batch.num_rows))
        keys = [(name, "ascending") for name in columns]
        return pc.sort_indices(
            pa.RecordBatch.from_arrays(list(columns.values()), list(columns)), sort_keys=keys
        )

    def _place(self, batch: pa.RecordBatch, row: int) -> Place:
        values = (batch[name][row].as_py() for name in self._by)
        return tuple((value is not None, value or "") for value in values)

    def _num_up_to(self, batch: pa.RecordBatch, order: pa.Array, last: Place) -> int:
        """How many rows of a batch in its order come before a place, or are there."""
        return bisect.bisect_right(
            range(len(order)), last, key=lambda i: self._place(batch, order[i].as_py())
        )

    def _write_part(self, batches: list[pa.RecordBatch]) -> None:
        batch, order = self._sorted(batches)
        num_rows = max(1, batch.num_rows * self._block_bytes // max(1, batch.nbytes))
        self._parts.append(self._written(taken(batch, order, num_rows), self._file))
        if len(self._parts) == self._most_parts:
            larger = PackedFile("zstd")
            self._held.callback(larger.close)
            self._larger.append(self._written(self._merged(self._parts), larger))
            self._file.close()
            self._parts, self._file = [], PackedFile("zstd")

    def _written(self, batches: Iterable[pa.RecordBatch], file: PackedFile) -> list[_Sorted]:
        return [_Sorted(self._place(rows, 0), file.write(rows), file) for rows in batches]

    def _merged(self, parts: Sequence[Sequence[_Sorted]]) -> Iterator[pa.RecordBatch]:
        """Rows of sorted parts in order, in batches of at least one row."""
        largest = sum(
            max((rows.block.unpacked_bytes for rows in part), default=0) for part in parts
        )
        step_bytes = max(MIN_STEP * self._block_bytes, largest)
        unread = iter(sorted(itertools.chain(*parts), key=lambda rows: rows.first))
        left = empty(self._fields)
        ahead = next(unread, None)
        while ahead is not None:
            interrupt.check()
            batches, num_bytes = [left], 0
            while ahead is not None and num_bytes < step_bytes:
                batches.append(ahead.file.read(ahead.block, self._fields))
                num_bytes += ahead.block.unpacked_bytes
                ahead = next(unread, None)
            batch = pa.concat_batches(batches)
            order = self._order(batch)
            num_complete = batch.num_rows
            if ahead is not None:
                num_complete = self._num_up_to(batch, order, ahead.first)
            yield from taken(batch, order.slice(0, num_complete), BATCH_ROWS)
            left = rows_of(batch, order.slice(num_complete))
