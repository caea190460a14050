"""The end of a run: its rows land in the three tables, and what was staged is deleted.

If a run was planned to score images again, its rows and entries replace the earlier ones: files
with such rows are rewritten without them, and the commit that adds the new files removes the old
ones. Those are deleted before the next table is committed; until then a plain glob shows their rows
twice.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable

from steel_batch import interrupt, layout, schema
from steel_batch.errors import CommitUnknownError, LakeError, StaleChangeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import MAX_BYTES
from steel_batch.lake.lock import Lease
from steel_batch.runs.events import Events
from steel_batch.runs.receipt import RECEIPTS_IN_PASSING, Receipt
from steel_batch.runs.record import RunRecord
from steel_batch.tables.commit import open_for, publish
from steel_batch.tables.committed import read_rows
from steel_batch.tables.file_lists import DataFile, load_files, save_files, save_replaced
from steel_batch.tables.merge import READ_AT_ONCE
from steel_batch.tables.rewriting import Change, without_planned, write_new
from steel_batch.tables.summary import FIELDS, summarize
from steel_batch.tables.sweep import sweep
from steel_batch.tables.table_log import (
    LiveFile,
    commit_turn,
    files_in,
    landed,
    leave_tails,
    write_checkpoints,
)

NUM_CHANGES: Final = 10
"""How often a change is computed again because another writer rewrote the table meanwhile."""
NUM_LOOKS: Final = 3
"""How often a committed run is committed again because the tables do not contain it."""

log = logging.getLogger(__name__)


def land_run(
    store: Lake,
    record: RunRecord,
    files: Sequence[DataFile],
    bad_shards: Sequence[int],
    classes: Sequence[str],
    events: Events,
    lease: Lease,
    *,
    is_new: bool = False,
) -> int:
    """Commit a run to the three tables, predictions first. Each commit happens once.

    Before this returns, the logs of all three are read again: a store that lets two writers of one
    entry both succeed may have lost any of them since.

    Args:
        store: The store.
        record: The run.
        files: The merged predictions.
        bad_shards: Shards whose receipts name quarantined images.
        classes: Names of the engine's classes.
        events: Receives an event for each commit.
        lease: Checked before anything becomes visible and before anything is deleted.
        is_new: Whether this process has begun the run: then nothing of it is published.

    Returns:
        The version of the predictions that contains the run's rows.

    Raises:
        CommitConflictError: It surely failed.
        CommitUnknownError: The outcome is unknown; the same call may be repeated.
        LockHeldError: The lock was lost.
    """
    landing = _Landing(store, record, files, bad_shards, classes, lease, is_new)
    with commit_turn(store):
        for _ in range(NUM_LOOKS):
            versions = landing.land_tables(events)
            lost = [table for table in versions if not landed(store, table, record.run_id)]
            if not lost:
                write_checkpoints(store)
                leave_tails(store)
                return versions[layout.PREDICTIONS]
            log.warning(
                "run %s was committed to %s, but the log no longer contains it: another writer "
                "replaced its entry; committing again",
                record.run_id,
                " and ".join(lost),
            )
    raise CommitUnknownError(
        f"run {record.run_id} was committed to {' and '.join(lost)} {NUM_LOOKS} times, and each "
        "time the log lost it: another writer replaces its entries, and the store allows it. "
        "Nothing of the run is deleted. Stop the other writers and run the same command again; "
        "`steel-batch doctor --store` shows whether the store decides between two writers."
    )


class _Landing:
    def __init__(
        self,
        store: Lake,
        record: RunRecord,
        files: Sequence[DataFile],
        bad_shards: Sequence[int],
        classes: Sequence[str],
        lease: Lease,
        is_new: bool,
    ) -> None:
        self._is_new = is_new
        self._is_first = is_new and layout.split_run_id(record.run_id)[2] == 1
        """Whether nothing else was published of the date: there are no leftovers to look for. A
        quarantine, which few dates have, is looked through in any case."""
        self._predicted: list[LiveFile] = []
        """The date's files in the predictions, as last looked at."""
        self._store = store
        self._record = record
        self._files = files
        self._bad_shards = bad_shards
        self._classes = classes
        self._check_lock = lease.check

    def land_tables(self, events: Events) -> dict[str, int]:
        """Commit to each table that does not contain the run; return versions by table."""
        store, record, versions = self._store, self._record, {}
        changes: dict[str, Callable[[int, list[LiveFile]], Change]] = {
            layout.PREDICTIONS: self._predictions,
            layout.CLASS_SUMMARIES: self._summaries,
            layout.QUARANTINE: self._quarantine,
        }
        for table, change in changes.items():
            if table == layout.QUARANTINE and self._is_first and not self._bad_shards:
                self._check_lock()
                save_files(store, record.run_id, table, [])
                continue
            opened, landed_at = open_for(store, table, record.run_id)
            kept: set[str] = set()
            is_untouched = False
            if landed_at is None:
                opened, made = self._land(table, change, opened)
                is_first = self._is_first and table != layout.QUARANTINE
                is_untouched = self._is_new and (made is None or is_first)
                if made is not None:
                    kept = {file.target for file in made.added}
                    versions[table] = int(opened.version())
                    events.add("landed", table=table, version=versions[table])
            elif table == layout.PREDICTIONS:
                versions[table] = int(opened.version())
            if table == layout.PREDICTIONS:
                self._predicted = files_in(opened, table, record.engine, record.date)
            if not is_untouched:
                sweep(store, table, record.engine, record.date, before=self._check_lock, keep=kept)
        self._is_new = self._is_first = False
        return versions

    def _land(
        self, table: str, change: Callable[[int, list[LiveFile]], Change], opened: DeltaTable
    ) -> tuple[DeltaTable, Change | None]:
        """Commit one table's change, computed from the table as it was opened.

        Returns:
            The table after the commit, and the change; None if nothing changes.
        """
        store, record, run_id = self._store, self._record, self._record.run_id
        for number in range(NUM_CHANGES):
            attempt = 0 if self._is_new else _next_attempt(store, run_id, table)
            made = change(attempt, files_in(opened, table, record.engine, record.date))
            self._check_lock()
            save_files(store, run_id, table, made.added)
            if made.replaced:
                save_replaced(store, run_id, table, [file.key for file in made.replaced])
            if not (made.added or made.replaced or table == layout.PREDICTIONS):
                break
            try:
                with interrupt.shielded():  # a glob sees published files, so commit them too
                    opened = publish(
                        store, table, run_id, made.added, opened, replaced=made.replaced,
                        seen=made.seen, before=self._check_lock,
                    )  # fmt: skip
            except StaleChangeError as error:
                if number == NUM_CHANGES - 1:
                    raise
                log.info("computing the change again: %s", error)
                self._is_new = False
                opened, landed_at = open_for(store, table, run_id)
                if landed_at is not None:  # a write of unknown outcome has arrived
                    return opened, made
            else:
                return opened, made
        return opened, None

    def _predictions(self, attempt: int, live: list[LiveFile]) -> Change:
        table, files = layout.PREDICTIONS, [_renamed(file, attempt) for file in self._files]
        change = without_planned(self._store, self._record, table, len(files), attempt, live)
        return dataclasses.replace(change, added=[*files, *change.added])

    def _summaries(self, attempt: int, live: list[LiveFile]) -> Change:
        # Over all runs of the date; replaces the previous summary.
        store, record, table = self._store, self._record, layout.CLASS_SUMMARIES
        rows = read_rows(store, self._predicted, FIELDS)
        summary = summarize(rows, self._classes, record.run_id)
        return Change([write_new(store, record, table, 0, attempt, [summary])], live, live)

    def _quarantine(self, attempt: int, live: list[LiveFile]) -> Change:
        store, record, table = self._store, self._record, layout.QUARANTINE
        change = without_planned(store, record, table, 1, attempt, live)
        if self._bad_shards:
            entries = _quarantined(store, record, self._bad_shards)
            change.added.append(write_new(store, record, table, 0, attempt, entries))
        return change


def _next_attempt(store: Lake, run_id: str, table: str) -> int:
    """An attempt number with unused file names: an earlier attempt may have published some."""
    listed = load_files(store, run_id, table)
    if listed is None:
        return 0
    places = [layout.split_table_file(file.target) for file in listed]
    return 1 + max((attempt for _, _, attempt in filter(None, places)), default=0)


def _renamed(file: DataFile, attempt: int) -> DataFile:
    """A merged file, with its key in this attempt."""
    place = layout.split_table_file(file.target)
    if place is None or not attempt:
        return file
    run_id, number, _ = place
    engine, date, _ = layout.split_run_id(run_id)
    target = layout.table_file(layout.PREDICTIONS, engine, date, run_id, number, attempt)
    return dataclasses.replace(file, target=target)


def delete_staged(store: Lake, record: RunRecord) -> None:
    """Delete the staged and merged files of a run whose commits surely landed or surely failed."""
    place = f"{layout.RUNS}/{record.run_id}/"
    folders = [f"{place}merged/", f"{place}shards/"]
    is_small = record.num_shards <= RECEIPTS_IN_PASSING
    listed = (
        item.key for each in ([place] if is_small else folders) for item in store.list_objects(each)
    )
    store.delete(key for key in listed if key.startswith(tuple(folders)))


def _quarantined(store: Lake, record: RunRecord, bad_shards: Sequence[int]) -> Iterator[pa.Table]:
    """The quarantine entries of some receipts, few receipts at a time."""
    for start in range(0, len(bad_shards), READ_AT_ONCE):
        shards = bad_shards[start : start + READ_AT_ONCE]
        keys = [layout.receipt_file(record.run_id, shard) for shard in shards]
        rows = []
        found = store.read_many([ReadRequest(key=key, max_bytes=MAX_BYTES) for key in keys])
        for key, data in zip(keys, found, strict=True):
            receipt = whole_receipt(store, key, data)
            at = datetime.datetime.fromisoformat(receipt.scored_at)
            for image in receipt.quarantined:
                rows.append({**dataclasses.asdict(image), "run_id": record.run_id, "at": at})
        yield pa.Table.from_pylist(rows, schema=schema.QUARANTINE)


def whole_receipt(store: Lake, key: str, data: bytes | LakeError) -> Receipt:
    """A receipt that was read of a run whose staged rows may be deleted: it cannot be made again.

    Raises:
        LakeError: It cannot be read, or is damaged or of a newer format.
    """
    if isinstance(data, LakeError):
        raise data
    try:
        return Receipt.from_json(data, source=store.uri(key))
    except ValueError as error:
        raise LakeError(
            f"{store.uri(key)} is damaged ({error}), and its run's quarantine cannot be written "
            "without it: restore it from a backup."
        ) from error
