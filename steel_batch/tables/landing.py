"""The end of a run: its rows land in the three tables, and what was staged is deleted.

A run's rows and entries take the place of earlier ones of the same images, where it was planned to
score them again: files that hold such rows are written anew without them, and the commit that adds
the new files removes the old ones. They are deleted before the next table's turn: until then a
plain glob shows their rows twice.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import interrupt, layout, schema
from steel_batch.database import load_stream, scratch_database
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.lock import Lease
from steel_batch.runs.events import Events
from steel_batch.runs.plan import Plan
from steel_batch.runs.receipt import Receipt
from steel_batch.runs.record import RunRecord
from steel_batch.tables.commit import (
    LiveFile,
    land,
    landed,
    live_files,
    read_file,
    read_rows,
    sweep,
)
from steel_batch.tables.merge import READ_AT_ONCE, DataFile, save_files, write_file
from steel_batch.tables.summary import FIELDS, summarize

KEY = pa.schema([schema.PREDICTIONS.field("image_key")])
_PLACED = pa.schema([("file", pa.int64()), ("place", pa.int64()), *KEY])
Change = tuple[list[DataFile], list[LiveFile]]
"""Files to add to a table and files that they take the place of."""


def land_run(
    store: Lake,
    record: RunRecord,
    files: Sequence[DataFile],
    bad_shards: Sequence[int],
    classes: Sequence[str],
    events: Events,
    lease: Lease,
) -> int:
    """Commit a run to the three tables: predictions first. Each commit happens once.

    Args:
        store: The store.
        record: The run.
        files: The merged predictions.
        bad_shards: Shards whose receipts name images in quarantine.
        classes: The names of the engine's classes.
        events: Told of each commit.
        lease: Checked before anything becomes visible and before anything is deleted.

    Returns:
        The version of the predictions that has the run's rows.
    """
    run_id, engine, date = record.run_id, record.engine, record.date

    def predictions() -> Change:
        kept, replaced = _without_planned(store, record, layout.PREDICTIONS, len(files))
        return [*files, *kept], replaced

    def summaries() -> Change:
        # Over all runs of the date, in the place of the summary before.
        rows = read_rows(store, layout.PREDICTIONS, engine, date, FIELDS)
        table = summarize(rows, classes, run_id)
        made = _write(store, record, layout.CLASS_SUMMARIES, 0, [table])
        return [made], live_files(store, layout.CLASS_SUMMARIES, engine, date)

    def quarantine() -> Change:
        kept, replaced = _without_planned(store, record, layout.QUARANTINE, 1)
        if bad_shards:
            entries = _quarantined(store, record, bad_shards)
            kept.append(_write(store, record, layout.QUARANTINE, 0, entries))
        return kept, replaced

    changes: dict[str, Callable[[], Change]] = {
        layout.PREDICTIONS: predictions,
        layout.CLASS_SUMMARIES: summaries,
        layout.QUARANTINE: quarantine,
    }
    versions: dict[str, int] = {}
    for table, change in changes.items():
        added: list[DataFile] = []
        replaced: list[LiveFile] = []
        if not landed(store, table, run_id):
            added, replaced = change()
            save_files(store, run_id, table, added)
        if added or replaced or table == layout.PREDICTIONS:
            with interrupt.shielded():  # a glob sees what is published, so it is committed too
                versions[table] = land(
                    store, table, run_id, added, replaced=replaced, before=lease.check
                )
            events.add("landed", table=table, version=versions[table])
        sweep(store, table, engine, date, before=lease.check)
    return versions[layout.PREDICTIONS]


def delete_staged(store: Lake, run_id: str) -> None:
    """Delete the staged and merged files of a run whose commits surely landed or surely failed."""
    for folder in ("merged", "shards"):
        store.delete(item.key for item in store.list_objects(f"{layout.RUNS}/{run_id}/{folder}/"))


def _without_planned(store: Lake, record: RunRecord, table: str, first_number: int) -> Change:
    """Rewrite the committed files that hold images of this run's plan, without those."""
    settings = record.settings
    is_replacing = settings["rescore_changed"] or settings["retry_quarantined"]
    # A quarantined image that is another one by now is planned like a new one.
    if not (is_replacing or table == layout.QUARANTINE):
        return [], []
    files = live_files(store, table, record.engine, record.date)
    made: list[DataFile] = []
    replaced: list[LiveFile] = []
    if not files:
        return made, replaced
    with scratch_database() as con:
        load_stream(con, "planned", KEY, _planned_keys(store, record))
        load_stream(con, "live", _PLACED, _placed_keys(store, files))
        con.execute("CREATE TABLE kept AS FROM live ANTI JOIN planned USING (image_key)")
        counts = con.sql(
            "SELECT file, count(kept.place) FROM live LEFT JOIN kept USING (file, place) "
            "GROUP BY file HAVING count(kept.place) < count(*) ORDER BY file"
        ).fetchall()
        for number, num_kept in counts:
            replaced.append(files[number])
            if num_kept:
                kept = con.execute("SELECT place FROM kept WHERE file = ? ORDER BY 1", [number])
                places = kept.fetchnumpy()["place"]
                fields = _fields_of(store, files[number].key, table)
                rows = _rows_at(store, files[number].key, fields, places)
                kept_file = _write(
                    store, record, table, first_number + len(made), rows, fields=fields
                )
                made.append(kept_file)
    return made, replaced


def _planned_keys(store: Lake, record: RunRecord) -> Iterator[pa.RecordBatch]:
    for group in Plan(store, record.run_id, digest=record.plan_digest):
        yield from group.select(["image_key"]).cast(KEY).to_batches()


def _placed_keys(store: Lake, files: Sequence[LiveFile]) -> Iterator[pa.RecordBatch]:
    """The keys of files with where they stand: which file, which row."""
    for number, file in enumerate(files):
        place = 0
        for batch in read_file(store, file.key, KEY):
            places = np.arange(place, place + batch.num_rows)
            place += batch.num_rows
            columns = [np.full(len(places), number), places, batch["image_key"]]
            yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=_PLACED)


def _fields_of(store: Lake, key: str, table: str) -> pa.Schema:
    """The columns of a table's files, and behind them those that a file has and this build lacks.

    A column that somebody added is not lost when the file is written anew.
    """
    with store.open_input(key) as stream:
        found = pq.read_schema(stream)
    ours = schema.TABLES[table]
    return pa.schema([*ours, *(field for field in found if field.name not in ours.names)])


def _rows_at(
    store: Lake, key: str, fields: pa.Schema, places: npt.NDArray[np.int64]
) -> Iterator[pa.Table]:
    """The rows of a file at some places, which are in order."""
    with store.open_input(key) as stream, pq.ParquetFile(stream) as file:
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            first, last = np.searchsorted(places, [start, start + rows.num_rows])
            yield schema.conform(rows.take(places[first:last] - start), fields)
            start += rows.num_rows


def _quarantined(store: Lake, record: RunRecord, bad_shards: Sequence[int]) -> Iterator[pa.Table]:
    """The entries of some receipts, of few of them at a time."""
    for start in range(0, len(bad_shards), READ_AT_ONCE):
        shards = bad_shards[start : start + READ_AT_ONCE]
        keys = [layout.receipt_file(record.run_id, shard) for shard in shards]
        rows = []
        for data in store.read_many([ReadRequest(key=key) for key in keys]):
            if isinstance(data, LakeError):
                raise data
            receipt = Receipt.from_json(data)
            at = datetime.datetime.fromisoformat(receipt.scored_at)
            for image in receipt.quarantined:
                rows.append({**dataclasses.asdict(image), "run_id": record.run_id, "at": at})
        yield pa.Table.from_pylist(rows, schema=schema.QUARANTINE)


def _write(
    store: Lake,
    record: RunRecord,
    table: str,
    number: int,
    tables: Iterator[pa.Table] | list[pa.Table],
    *,
    fields: pa.Schema | None = None,
) -> DataFile:
    return write_file(
        store,
        fields or schema.TABLES[table],
        tables,
        merged=layout.merged_file(record.run_id, table, number),
        target=layout.table_file(table, record.engine, record.date, record.run_id, number),
    )
