"""What a run changes in one table: files that it adds, and files that those take the place of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import layout, schema
from steel_batch.database import load_stream, scratch_database
from steel_batch.lake import Lake
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import RunRecord
from steel_batch.tables.committed import read_file
from steel_batch.tables.deletion_vectors import select
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
    with scratch_database() as con:
        load_stream(con, "planned", KEY, _planned_keys(store, record))
        load_stream(con, "live", _PLACED, _placed_keys(store, files))
        con.execute("CREATE TABLE kept AS FROM live ANTI JOIN planned USING (image_key)")
        counts = con.sql(
            "SELECT file, count(kept.place) FROM live LEFT JOIN kept USING (file, place) "
            "GROUP BY file HAVING count(kept.place) < count(*) ORDER BY file"
        ).fetchall()
        for place, num_kept in counts:
            replaced.append(files[place])
            if num_kept:
                kept = con.execute("SELECT place FROM kept WHERE file = ? ORDER BY 1", [place])
                places = kept.fetchnumpy()["place"]
                fields = _fields_of(store, files[place].key, table)
                rows = _rows_at(store, files[place].key, fields, places)
                number = first_number + len(made)
                made.append(write_new(store, record, table, number, attempt, rows, fields=fields))
    return Change(made, replaced, list(files))


def _planned_keys(store: Lake, record: RunRecord) -> Iterator[pa.RecordBatch]:
    for group in Plan(store, record.run_id, digest=record.plan_digest):
        yield from group.select(["image_key"]).cast(KEY).to_batches()


def _placed_keys(store: Lake, files: Sequence[LiveFile]) -> Iterator[pa.RecordBatch]:
    """The keys in some files with their positions: which file, which row."""
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


def _fields_of(store: Lake, key: str, table: str) -> pa.Schema:
    """The columns of a table's files, followed by columns of a file that this build does not know.

    So a column that somebody added is not lost when the file is rewritten.
    """
    with store.open_input(key) as stream:
        found = pq.read_schema(stream)
    ours = schema.TABLES[table]
    return pa.schema([*ours, *(field for field in found if field.name not in ours.names)])


def _rows_at(
    store: Lake, key: str, fields: pa.Schema, places: npt.NDArray[np.int64]
) -> Iterator[pa.Table]:
    """The rows of a file at some sorted positions."""
    with store.open_input(key) as stream, pq.ParquetFile(stream) as file:
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            first, last = np.searchsorted(places, [start, start + rows.num_rows])
            yield schema.conform(rows.take(places[first:last] - start), fields)
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
