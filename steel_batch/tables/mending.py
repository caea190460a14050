"""Finds commits that a table lost, and restores them.

A finished run has its transaction in the tables' logs. If a log entry is gone, because the store
let another writer replace it or because somebody deleted it, the run's files may still be in the
table's folder, and its receipts are kept in any case. So whatever can be restored without scoring
is restored; images that then have neither a row nor a quarantine entry are new to the next plan.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import MAX_BYTES
from steel_batch.lake.lock import Lease
from steel_batch.runs.events import Events
from steel_batch.runs.record import read_run, runs_of
from steel_batch.tables.commit import land
from steel_batch.tables.file_lists import (
    RunLists,
    load_files,
    load_many_files,
    load_many_replaced,
    load_replaced,
)
from steel_batch.tables.landing import land_run, whole_receipt
from steel_batch.tables.merge import READ_AT_ONCE
from steel_batch.tables.table_log import commit_turn, ensure_tables, landed_runs, live_files

log = logging.getLogger(__name__)


def missing_tables(
    store: Lake, run_ids: Sequence[str], landed: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    """The tables that should contain each finished run but do not; runs without any are left out.

    Args:
        store: The store.
        run_ids: The runs.
        landed: By table, those whose transaction its log contains.
    """
    # Not every run commits to the quarantine.
    unsure = [run_id for run_id in run_ids if run_id not in landed[layout.QUARANTINE]]
    wanted = [(run_id, layout.QUARANTINE) for run_id in unsure]
    listed = load_many_files(store, wanted)
    changes = {run_id: bool(files) for (run_id, _), files in listed.items()}
    wanted = [each for each in wanted if not changes[each[0]]]
    for (run_id, _), keys in zip(wanted, load_many_replaced(store, wanted), strict=True):
        changes[run_id] = bool(keys)
    missing = {
        run_id: [
            table
            for table in layout.TABLES
            if run_id not in landed[table] and (table != layout.QUARANTINE or changes[run_id])
        ]
        for run_id in run_ids
    }
    return {run_id: tables for run_id, tables in missing.items() if tables}


def lost_runs(
    store: Lake, table: str, run_ids: Sequence[str], lists: RunLists, live: Collection[str]
) -> set[str]:
    """Which of some finished runs should be in a table's log but are not.

    The log need not be searched for a run whose files are all part of the table.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        run_ids: The runs.
        lists: Their files in that table.
        live: The keys that the log lists.
    """
    unsure, empty = [], []
    for run_id in run_ids:
        files = lists[run_id, table]
        if not files:
            empty.append(run_id)
        elif not all(file.target in live for file in files):
            unsure.append(run_id)
    if table == layout.QUARANTINE:  # not every run commits to it
        replaced = load_many_replaced(store, [(run_id, table) for run_id in empty])
        empty = [run_id for run_id, keys in zip(empty, replaced, strict=True) if keys]
    unsure += empty
    return set(unsure) - landed_runs(store, table, unsure) if unsure else set()


def mend_date(
    store: Lake,
    engine: str,
    date: str,
    classes: Sequence[str],
    lease: Lease,
    *,
    run_ids: Sequence[str] | None = None,
) -> list[str]:
    """Restore what the tables lost of the runs of an engine and date.

    Runs that landed in the predictions but not in the other tables are completed, too.

    Args:
        store: The store.
        engine: The engine's name.
        date: YYYY-MM-DD.
        classes: Names of the engine's classes.
        lease: The date's lock, held by the caller.
        run_ids: The runs of the engine and date, if the caller has listed them.

    Returns:
        The runs of which something was restored.

    Raises:
        CommitError: A commit failed, or its outcome is unknown.
        LockHeldError: The lock was lost.
    """
    ids = runs_of(store, engine, date) if run_ids is None else run_ids
    if not ids:
        return []
    found = {table: landed_runs(store, table, ids) for table in layout.TABLES}
    last = read_run(store, ids[-1])
    mended: set[str] = set()
    if not all(set(ids) <= found[table] for table in layout.TABLES):
        runs = [last if run_id == last.run_id else read_run(store, run_id) for run_id in ids]
        over = [run.run_id for run in runs if run.result is not None]
        for table in layout.TABLES:
            back = _restore(store, table, over, found[table], lease)
            found[table] |= set(back)
            mended |= set(back)
            # If its rows are not restored, its summary and entries are of no use.
            over = [run_id for run_id in over if run_id in found[layout.PREDICTIONS]]
    newest = next((i for i in reversed(ids) if i in found[layout.PREDICTIONS]), None)
    is_continued = newest == last.run_id and last.result is None
    if newest is None or is_continued:  # the command continues with that run itself
        return sorted(mended)
    if missing_tables(store, [newest], found):
        _finish(store, newest, classes, lease)
        mended.add(newest)
    return sorted(mended)


def _restore(
    store: Lake, table: str, over: Sequence[str], in_log: Collection[str], lease: Lease
) -> list[str]:
    """Commit files again that are still in a table's folder but whose log entry is lost.

    Only if no later run landed: that one may have scored the same images again.
    """
    lost: list[str] = []
    for run_id in reversed(over):
        if run_id in in_log:
            break
        lost.insert(0, run_id)
    if table == layout.QUARANTINE:
        changing = missing_tables(store, lost, dict.fromkeys(layout.TABLES, in_log))
        lost = [run_id for run_id in lost if table in changing.get(run_id, ())]
    if not lost:
        return []
    log.warning("%s: committed, but missing from the log of %s", ", ".join(lost), table)
    ensure_tables(store)
    engine, date, _ = layout.split_run_id(lost[0])
    live = {file.key: file for file in live_files(store, table, engine, date)}
    replaced = {run_id: load_replaced(store, run_id, table) for run_id in lost}
    gone = {key for keys in replaced.values() for key in keys}
    kept = {
        run_id: [f for f in load_files(store, run_id, table) or [] if f.target not in gone]
        for run_id in lost
    }
    for file in (file for files in kept.values() for file in files):
        there = store.stat(file.target)
        if there is None or there.size_bytes != file.bytes:
            log.warning("%s no longer exists, so it is merged again", file.target)
            return []
    with commit_turn(store):
        for run_id in lost:
            files = [dataclasses.replace(file, merged=file.target) for file in kept[run_id]]
            out = [live[key] for key in replaced[run_id] if key in live]
            land(store, table, run_id, files, replaced=out, before=lease.check)
            log.warning("run %s is restored to the log of %s", run_id, table)
    return lost


def _finish(store: Lake, run_id: str, classes: Sequence[str], lease: Lease) -> None:
    """Commit what a run lacks in the tables other than the predictions."""
    record = read_run(store, run_id).record
    if record is None:
        raise LakeError(
            f"{store.uri(layout.run_file(run_id, 'run.json'))} is missing, and the run's summary "
            "or quarantine cannot be rebuilt without it: restore it from a backup."
        )
    ensure_tables(store)
    events = Events(store, run_id)
    bad = sorted(shard for shard, is_bad in _receipts(store, run_id) if is_bad)
    land_run(store, record, [], bad, classes, events, lease)
    events.add("mended")
    events.flush()
    log.warning("run %s is in all tables again", run_id)


def _receipts(store: Lake, run_id: str) -> Iterator[tuple[int, bool]]:
    """Yield each shard of a run, and whether it has quarantined images; needs no staged rows."""
    keys = [item.key for item in store.list_objects(layout.receipts_dir(run_id))]
    for start in range(0, len(keys), READ_AT_ONCE):
        batch = keys[start : start + READ_AT_ONCE]
        found = store.read_many([ReadRequest(key=key, max_bytes=MAX_BYTES) for key in batch])
        for key, data in zip(batch, found, strict=True):
            receipt = whole_receipt(store, key, data)
            yield receipt.shard, bool(receipt.quarantined)
