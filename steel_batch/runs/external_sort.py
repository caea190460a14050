"""Sorts Arrow rows of any number: by parts, which wait in a temporary file and are merged once.

A part is as many rows as are sorted in memory. It is written in blocks, each compressed by itself:
sorted keys resemble their neighbours, so that little is on disk. To merge, the blocks of all parts
are read in the order of their first rows; rows up to the first one of the next block are complete.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
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
BATCH_ROWS: Final = 8192

Place = tuple[tuple[bool, Any], ...]
"""A row's values of the columns that rows are sorted by; null comes first."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Some rows in the temporary file."""

    first: Place
    block: Block


class ExternalSort:
    """Sorts the rows that are added; the `with` block holds its temporary file, if it needs one.

    Args:
        fields: The rows' schema.
        by: Names of the text columns that rows are sorted by, in the order of their bytes; nulls
            come first.
        part_bytes: How much is sorted in memory.
        block_bytes: How much is compressed at once.

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
    ) -> None:
        self.num_rows = 0
        self._fields, self._by = fields, list(by)
        self._part_bytes, self._block_bytes = part_bytes, block_bytes
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._blocks: list[_Sorted] = []
        self._num_parts = 0
        self._file = PackedFile("zstd")

    def __enter__(self) -> ExternalSort:
        """Nothing is opened yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the temporary file."""
        self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take some more rows."""
        interrupt.check()
        self.num_rows += batch.num_rows
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= self._part_bytes:
            self._write_part()

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order; call it once, after everything is added."""
        if not self._file.is_used:
            batch, order = self._take_pending()
            yield from taken(batch, order, BATCH_ROWS)
            return
        if self._pending:
            self._write_part()
        yield from self._merged()

    def _take_pending(self) -> tuple[pa.RecordBatch, pa.Array]:
        batch = pa.concat_batches(self._pending or [empty(self._fields)])
        self._pending, self._pending_bytes = [], 0
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

    def _write_part(self) -> None:
        batch, order = self._take_pending()
        num_rows = max(1, batch.num_rows * self._block_bytes // max(1, batch.nbytes))
        for rows in taken(batch, order, num_rows):
            self._blocks.append(_Sorted(self._place(rows, 0), self._file.write(rows)))
        self._num_parts += 1

    def _merged(self) -> Iterator[pa.RecordBatch]:
        unread = iter(sorted(self._blocks, key=lambda rows: rows.first))
        self._blocks = []
        step = max(MIN_STEP, self._num_parts)
        left = empty(self._fields)
        ahead = next(unread, None)
        while ahead is not None:
            interrupt.check()
            blocks = [ahead, *itertools.islice(unread, step - 1)]
            batch = pa.concat_batches(
                [left, *(self._file.read(rows.block, self._fields) for rows in blocks)]
            )
            order = self._order(batch)
            ahead = next(unread, None)
            num_complete = batch.num_rows
            if ahead is not None:
                num_complete = self._num_up_to(batch, order, ahead.first)
            yield from taken(batch, order.slice(0, num_complete), BATCH_ROWS)
            left = rows_of(batch, order.slice(num_complete))
