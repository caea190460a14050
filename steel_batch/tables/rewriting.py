"""What a run changes in one table: files that it adds, and files that those take the place of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch import layout, schema
from steel_batch.database import scratch_database
from steel_batch.lake import Lake
from steel_batch.runs.partitions import Partitions
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import RunRecord
from steel_batch.tables.committed import read_file
from steel_batch.tables.deletion_vectors import Kept, select
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.merge import write_file
from steel_batch.tables.table_log import LiveFile

KEY = pa.schema([schema.PREDICTIONS.field("image_key")])
_PLACED = pa.schema([("file", pa.int64()), ("place", pa.int64()), *KEY])


@dataclass(frozen=True, slots=True)
class Change:
    """What a run changes in one table."""

    added: list[DataFile]
    replaced: list[LiveFile]
    """Files that the added ones replace."""
    seen: list[LiveFile] | None = None
    """The date's files that this was computed from, if it depends on all of them."""


def without_planned(
    store: Lake,
    record: RunRecord,
    table: str,
    first_number: int,
    attempt: int,
    files: Sequence[LiveFile],
) -> Change:
    """Rewrite the committed files that contain images of a run's plan, without those images.

    Args:
        store: The store.
        record: The run.
        table: One of `layout.TABLES`.
        first_number: Number of the first file that is written.
        attempt: Attempt number in the names of the files.
        files: The date's committed files.

    Returns:
        The change; empty if the run replaces no rows.
    """
    settings = record.settings
    is_replacing = settings["rescore_changed"] or settings["retry_quarantined"]
    # A quarantined image that has changed since is planned like a new one.
    if not (is_replacing or table == layout.QUARANTINE):
        return Change([], [])
    made: list[DataFile] = []
    replaced: list[LiveFile] = []
    if not files:
        return Change(made, replaced, [])
    for number, left in _left_rows(store, record, files).items():
        file = files[number]
        replaced.append(file)
        if left is not None:
            fields = _fields_of(store, file.key, table)
            rows = _read_kept(store, file.key, fields, left)
            new = first_number + len(made)
            made.append(write_new(store, record, table, new, attempt, rows, fields=fields))
    return Change(made, replaced, list(files))


def _left_rows(store: Lake, record: RunRecord, files: Sequence[LiveFile]) -> dict[int, Kept | None]:
    """Find the files with images of a run's plan.

    Returns:
        By number, which rows are left of each such file; None if none are.
    """
    found: dict[int, npt.NDArray[np.uint8]] = {}
    num_rows = [0] * len(files)
    tables = {"planned": (KEY, "image_key"), "live": (_PLACED, "image_key")}
    with scratch_database() as con, Partitions(con, tables) as keys:
        for batch in _planned_keys(store, record):
            keys.add("planned", batch)
        for batch in _placed_keys(store, files, num_rows):
            keys.add("live", batch)
        for group in keys.groups():
            live = group["live"]
            is_planned = pc.is_in(live["image_key"], value_set=group["planned"]["image_key"])
            planned = live.filter(is_planned).sort_by("file")
            if not planned.num_rows:
                continue
            numbers, places = planned["file"].to_numpy(), planned["place"].to_numpy()
            first = np.flatnonzero(np.diff(numbers, prepend=-1))
            for number, of_file in zip(
                numbers[first].tolist(), np.split(places, first[1:]), strict=True
            ):
                if number not in found:
                    found[number] = _bits(files[number].kept, num_rows[number])
                bits = ~(0x80 >> of_file % 8).astype(np.uint8)
                np.bitwise_and.at(found[number], of_file // 8, bits)
    return {
        number: bits.tobytes() if select(bits.tobytes(), 0, num_rows[number]).any() else None
        for number, bits in sorted(found.items())
    }


def _bits(kept: Kept | None, num_rows: int) -> npt.NDArray[np.uint8]:
    """A bit for each row of a file, which is 0 if it was deleted."""
    bits = np.frombuffer(kept or b"", np.uint8)
    return np.pad(bits, (0, max(0, num_rows // 8 + 1 - len(bits))), constant_values=0xFF)


def _planned_keys(store: Lake, record: RunRecord) -> Iterator[pa.RecordBatch]:
    for group in Plan(store, record.run_id, digest=record.plan_digest):
        yield from group.select(["image_key"]).cast(KEY).to_batches()


def _placed_keys(
    store: Lake, files: Sequence[LiveFile], num_rows: list[int]
) -> Iterator[pa.RecordBatch]:
    """The keys in some files with their positions: which file, which row.

    Args:
        store: The store.
        files: The files.
        num_rows: Filled in for each file: its rows, with those that were deleted.
    """
    for number, file in enumerate(files):
        place = 0
        for batch in read_file(store, file.key, KEY):
            places, keys = np.arange(place, place + batch.num_rows), batch["image_key"]
            place += batch.num_rows
            if file.kept is not None and len(places):  # deleted rows are not written again
                is_kept = select(file.kept, int(places[0]), len(places))
                places, keys = places[is_kept], keys.filter(pa.array(is_kept))
            columns = [np.full(len(places), number), places, keys]
            yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=_PLACED)
        num_rows[number] = place


def _fields_of(store: Lake, key: str, table: str) -> pa.Schema:
    """The columns of a table's files, followed by columns of a file that this build does not know.

    So a column that somebody added is not lost when the file is rewritten.
    """
    with store.open_input(key) as stream:
        found = pq.read_schema(stream)
    ours = schema.TABLES[table]
    return pa.schema([*ours, *(field for field in found if field.name not in ours.names)])


def _read_kept(store: Lake, key: str, fields: pa.Schema, kept: Kept) -> Iterator[pa.Table]:
    """The rows of a file that are kept, by row group."""
    with store.open_input(key) as stream, pq.ParquetFile(stream) as file:
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            is_kept = pa.array(select(kept, start, rows.num_rows))
            yield schema.conform(rows.filter(is_kept), fields)
            start += rows.num_rows


def write_new(
    store: Lake,
    record: RunRecord,
    table: str,
    number: int,
    attempt: int,
    tables: Iterator[pa.Table] | list[pa.Table],
    *,
    fields: pa.Schema | None = None,
) -> DataFile:
    """Write a file that is to be part of a table.

    Args:
        store: The store.
        record: The run.
        table: One of `layout.TABLES`.
        number: Number of the file among the run's in that table.
        attempt: Attempt number in the names of the files.
        tables: The rows.
        fields: The columns; None for those of the table.
    """
    return write_file(
        store,
        fields or schema.TABLES[table],
        tables,
        merged=layout.merged_file(record.run_id, table, number),
        target=layout.table_file(table, record.engine, record.date, record.run_id, number, attempt),
    )
