"""Merges staged shards into few large files, without Ray.

A plan is ordered by line and key, so the output is the staged files one after the other. The cut
into files depends only on the receipts, and each file is complete before anybody can see it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch import interrupt, layout, schema
from steel_batch.errors import LakeError, MissingObjectError, SteelBatchError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.runs.receipt import Receipt
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.statistics import columns_with_nan, file_statistics

ROW_GROUP_ROWS: Final = 32_768
"""Maximum rows of a row group."""
LEAST_GROUP_ROWS: Final = 4_096
"""A row group with at least as many rows ends with its line, so that one line is cheap to read.
Lines with fewer share one: a group of its own would cost more than reading its neighbours."""

READ_AT_ONCE: Final = 64
"""Staged files held in memory at once."""


class DamagedShardError(SteelBatchError):
    """A shard's receipt or staged file is damaged; the shard must be scored again.

    Args:
        message: What was found.
        shard: The shard.
    """

    def __init__(self, message: str = "", *, shard: int = -1) -> None:
        super().__init__(message)
        self.shard = shard


class DamagedShardsError(SteelBatchError):
    """A file cannot be merged until its damaged shards have been scored again.

    Args:
        message: How many there are, and what was found in one of them.
        shards: What was found, per damaged shard.
    """

    def __init__(self, message: str = "", *, shards: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.shards = dict(shards or {})


Cut = tuple[int, range]
"""The number of a merged file, and its shards."""


def cut_files(staged_bytes: npt.NDArray[np.int64], target_bytes: int) -> list[range]:
    """Split a run's shards into ranges whose staged rows form one file each.

    Args:
        staged_bytes: Size of each shard's staged rows, in shard order; 0 for none.
        target_bytes: Maximum size of a file; a larger single shard becomes a file of its own.
    """
    ranges: list[range] = []
    start = size = 0
    for shard, num_bytes in enumerate(staged_bytes.tolist()):
        if size and size + num_bytes > target_bytes:
            ranges.append(range(start, shard))
            start, size = shard, 0
        size += num_bytes
    if size:
        ranges.append(range(start, len(staged_bytes)))
    return ranges


def merge_shards(store: Lake, run_id: str, number: int, shards: range) -> DataFile:
    """Write one merged file of the predictions.

    Raises:
        DamagedShardsError: Receipts are missing or damaged, or staged files are missing or have
            another digest; it names all such shards.
    """
    engine, date, _ = layout.split_run_id(run_id)
    return write_file(
        store,
        schema.PREDICTIONS,
        _read_staged(store, run_id, shards),
        merged=layout.merged_file(run_id, layout.PREDICTIONS, number),
        target=layout.table_file(layout.PREDICTIONS, engine, date, run_id, number),
    )


def write_file(
    store: Lake,
    fields: pa.Schema,
    tables: Iterable[pa.Table],
    *,
    merged: str,
    target: str,
) -> DataFile:
    """Write sorted tables as one Parquet file with statistics and a digest.

    Args:
        store: The store.
        fields: The file's schema.
        tables: The rows, in order.
        merged: The key to write.
        target: Its future key in the table.

    Raises:
        Interrupted: A signal requested a stop; nothing is written.
    """
    footers: list[pq.FileMetaData] = []
    with_nan: set[str] = set()
    with store.open_output(merged) as stream:
        counted = _Digest(stream)
        with pq.ParquetWriter(
            pa.PythonFile(counted, mode="w"),
            fields,
            compression="zstd",
            write_page_index=True,
            metadata_collector=footers,
        ) as writer:
            for table in _row_groups(tables, "line" in fields.names):
                interrupt.check()  # between two reads of staged files, seconds may pass
                with_nan.update(columns_with_nan(table))
                writer.write_table(table, row_group_size=max(1, table.num_rows))
    return DataFile(
        merged=merged,
        target=target,
        bytes=counted.num_bytes,
        sha256=counted.hexdigest(),
        num_rows=footers[0].num_rows,
        stats=file_statistics(footers[0], fields, with_nan=with_nan),
    )


def _read_staged(store: Lake, run_id: str, shards: range) -> Iterator[pa.Table]:
    """Yield the rows of shards, in order. After a damaged one, the others are only checked."""
    damaged: dict[int, str] = {}
    for start in range(shards.start, shards.stop, READ_AT_ONCE):
        batch = range(start, min(start + READ_AT_ONCE, shards.stop))
        keys = [layout.receipt_file(run_id, shard) for shard in batch]
        staged = []
        for shard, data in zip(batch, _read_all(store, keys), strict=True):
            try:
                key = layout.receipt_file(run_id, shard)
                receipt = _receipt(_whole(data, shard), shard, store.uri(key))
            except DamagedShardError as error:
                damaged[shard] = error.message
            else:
                if receipt.staged is not None:
                    staged.append(receipt)
        files = _read_all(store, [str(receipt.staged) for receipt in staged])
        for receipt, data in zip(staged, files, strict=True):
            interrupt.check()
            try:
                rows = _rows(data, receipt)
            except DamagedShardError as error:
                damaged[receipt.shard] = error.message
                continue
            if not damaged:
                # If an earlier build started the run, staged rows lack the newest columns.
                # `pq.read_table` takes 50 % longer for the few rows of a shard.
                table = pq.ParquetFile(pa.BufferReader(rows)).read(use_threads=False)
                yield schema.conform(table, schema.PREDICTIONS)
    if damaged:
        example = next(iter(damaged.values()))
        raise DamagedShardsError(
            f"{len(damaged)} of {len(shards)} staged shards are damaged: {example}", shards=damaged
        )


def _read_all(store: Lake, keys: Sequence[str]) -> list[bytes | LakeError]:
    return store.read_many([ReadRequest(key=key) for key in keys])


def _whole(data: bytes | LakeError, shard: int) -> bytes:
    if isinstance(data, MissingObjectError):
        raise DamagedShardError(str(data), shard=shard) from data
    if isinstance(data, LakeError):
        raise data
    return data


def _receipt(text: bytes, shard: int, source: str) -> Receipt:
    try:
        return Receipt.from_json(text, source=source)
    except ValueError as error:
        raise DamagedShardError(
            f"the receipt of shard {shard:07d}: {error}.", shard=shard
        ) from error


def _rows(data: bytes | LakeError, receipt: Receipt) -> bytes:
    rows = _whole(data, receipt.shard)
    found = hashlib.sha256(rows).hexdigest()
    if found != receipt.staged_sha256:
        raise DamagedShardError(
            f"{receipt.staged} has digest {found[:12]}, but its receipt states "
            f"{receipt.staged_sha256[:12]}.",
            shard=receipt.shard,
        )
    return rows


def _row_groups(tables: Iterable[pa.Table], by_line: bool) -> Iterator[pa.Table]:
    """Regroup rows: a group ends with the first line that fills it, or at `ROW_GROUP_ROWS`."""
    pending: list[pa.Table] = []
    num_pending = 0
    for table in tables:
        starts = _line_starts(pending[-1:], table) if by_line else np.empty(0, np.int64)
        place = 0
        while place < table.num_rows:
            fitting = starts[starts >= place + max(0, LEAST_GROUP_ROWS - num_pending)]
            most = min([place + ROW_GROUP_ROWS - num_pending, *fitting[:1].tolist()])
            part = table.slice(place, most - place)
            place += part.num_rows
            if part.num_rows:
                pending.append(part)
                num_pending += part.num_rows
            if place == most:
                yield pa.concat_tables(pending)
                pending, num_pending = [], 0
    if pending:
        yield pa.concat_tables(pending)


def _line_starts(before: Sequence[pa.Table], table: pa.Table) -> npt.NDArray[np.int64]:
    """The rows of a table with which a line begins, which is not that of the row before."""
    last = [chunk for rows in before for chunk in rows["line"][rows.num_rows - 1 :].chunks]
    lines = pa.chunked_array([*last, *table["line"].chunks], pa.string())
    encoded = pc.dictionary_encode(lines, null_encoding="encode").combine_chunks()
    codes = encoded.indices if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0).indices
    starts: npt.NDArray[np.int64] = np.flatnonzero(np.diff(codes.to_numpy())) + (1 - len(last))
    return starts


class _Digest(io.RawIOBase):
    """Passes writes through, counting and hashing them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.num_bytes += len(view)
        self._stream.write(view)
        return len(view)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
