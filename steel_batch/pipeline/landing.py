"""The end of a run: its rows land in the three tables, and what was staged is deleted."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

import pyarrow as pa

from steel_batch import layout, schema
from steel_batch.commit import land, landed, live_files, read_rows, sweep
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lock import Lease
from steel_batch.merge import DataFile, write_file
from steel_batch.receipt import Receipt
from steel_batch.runs import RunRecord
from steel_batch.summary import COLUMNS, summarize
from steel_batch.telemetry import Events


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
        lease: Checked before anything becomes visible.

    Returns:
        The version of the predictions that has the run's rows.
    """
    run_id, engine, date = record.run_id, record.engine, record.date
    version = land(store, layout.PREDICTIONS, run_id, files, before=lease.check)
    events.add("landed", table=layout.PREDICTIONS, version=version)
    if not landed(store, layout.CLASS_SUMMARIES, run_id):
        # The date's summary over all of its runs takes the place of the earlier one.
        replaced = live_files(store, layout.CLASS_SUMMARIES, engine, date)
        rows = read_rows(store, layout.PREDICTIONS, engine, date, COLUMNS)
        table = summarize(rows, classes, run_id)
        made = _write(store, record, layout.CLASS_SUMMARIES, table, ("line", "class_id"))
        land(store, layout.CLASS_SUMMARIES, run_id, [made], replaced=replaced, before=lease.check)
        events.add("landed", table=layout.CLASS_SUMMARIES)
    if bad_shards and not landed(store, layout.QUARANTINE, run_id):
        table = _quarantined(store, record, bad_shards)
        made = _write(store, record, layout.QUARANTINE, table, ("image_key", "error_code"))
        land(store, layout.QUARANTINE, run_id, [made], before=lease.check)
        events.add("landed", table=layout.QUARANTINE)
    sweep(store, engine, date)
    return version


def delete_staged(store: Lake, run_id: str) -> None:
    """Delete the staged and merged files of a run whose commits surely landed."""
    for folder in ("merged", "shards"):
        store.delete(item.key for item in store.list_objects(f"{layout.RUNS}/{run_id}/{folder}/"))


def _quarantined(store: Lake, record: RunRecord, bad_shards: Sequence[int]) -> pa.Table:
    keys = [layout.receipt_file(record.run_id, shard) for shard in bad_shards]
    rows = []
    for data in store.read_many([ReadRequest(key=key) for key in keys]):
        if isinstance(data, LakeError):
            raise data
        receipt = Receipt.from_json(data)
        at = datetime.datetime.fromisoformat(receipt.scored_at)
        for image in receipt.quarantined:
            rows.append({**dataclasses.asdict(image), "run_id": record.run_id, "at": at})
    return pa.Table.from_pylist(rows, schema=schema.QUARANTINE)


def _write(
    store: Lake, record: RunRecord, table: str, rows: pa.Table, bounds: tuple[str, ...]
) -> DataFile:
    return write_file(
        store,
        rows.schema,
        [rows],
        merged=layout.merged_file(record.run_id, table, 0),
        target=layout.table_file(table, record.engine, record.date, record.run_id, 0),
        bounds=bounds,
    )
