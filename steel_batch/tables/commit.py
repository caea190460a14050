"""Commits: how a run's rows become visible exactly once, whatever crashes in between.

Files are first copied into the table's folder, then made visible to Delta readers by one log entry.
The entry carries the run's id as an application transaction: after a crash, looking up that id
shows whether the commit landed. A commit has three outcomes: landed, surely failed, unknown. If the
outcome is unknown, the log is read again. A commit deletes nothing: that is left to `sweep`.

Each attempt is based on one version of the table and lands as the next version or not at all. So
whatever another writer committed meanwhile is noticed first: that a file to replace is gone, or
that the lock was lost. Afterwards the table is read again: some stores let two writers of one log
entry both succeed, and then one of the commits is in no log.

The protocol is that of delta-rs; nothing here writes a log of its own. Readers without Delta see
files as they are copied, one after the other, and replaced files until a sweep. So from the first
copy until the sweep right after the commit, a plain glob shows a part of a date, or rows twice; if
a run ends in between, this lasts until the date is run again.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from steel_batch import interrupt, layout, schema
from steel_batch.errors import (
    CommitConflictError,
    CommitUnknownError,
    LakeError,
    StaleChangeError,
    paragraph_of,
)
from steel_batch.lake import Lake
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.log_mirror import log_mirror
from steel_batch.tables.statistics import cover
from steel_batch.tables.table_log import (
    SCHEMAS,
    LiveFile,
    files_in,
    files_of,
    query_log,
    removed_files,
)

log = logging.getLogger(__name__)

UNKNOWN_ATTEMPTS: Final = 8
"""Writes of unknown outcome before giving up: a store that refuses once keeps refusing."""
ATTEMPTS: Final = 40
"""Attempts to commit: of several concurrent writers, one lands in each attempt."""
PAUSE_SECONDS: Final = 0.05
MAX_PAUSE_SECONDS: Final = 2.0


def check_replaceable(store: Lake, table: str, files: Sequence[LiveFile]) -> None:
    """Refuse to replace files with deleted rows: deltalake would leave them in the table.

    Raises:
        LakeError: Some have deleted rows; the message names one.
    """
    cut = [file.key for file in files if file.kept is not None]
    if cut:
        raise LakeError(
            f"this run would replace files of {store.uri(table)} in which another program deleted "
            f"rows by deletion vectors ({len(cut)} in all, for example {cut[0]}), and deltalake "
            "cannot remove such a file from a table. Let that program rewrite the files without "
            "them (in Spark: REORG TABLE ... APPLY (PURGE)), then run the same command again."
        )


def land(
    store: Lake,
    table: str,
    run_id: str,
    files: Sequence[DataFile],
    *,
    replaced: Sequence[LiveFile] = (),
    seen: Sequence[LiveFile] | None = None,
    before: Callable[[], None] = lambda: None,
    attempts: int = ATTEMPTS,
) -> int:
    """Publish a run's files to one table and commit them; idempotent.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        run_id: The run, whose id is the transaction.
        files: Complete merged files.
        replaced: Committed files whose rows are also in `files`; removed by the same commit, and
            deleted by the next `sweep`. They must be in the version that the commit is based on.
        seen: The date's committed files that the change was computed from, if it depends on all of
            them: they must be the date's files in that version.
        before: Called right before each file is published and right before the log is written;
            raises to stop.
        attempts: How often the log is written before giving up.

    Returns:
        The table's version that contains the run's rows.

    Raises:
        StaleChangeError: Another writer rewrote files of the date: compute the change again.
        CommitConflictError: It surely failed.
        CommitUnknownError: The outcome is unknown; the same call may be repeated.
        LakeError: A replaced file has deleted rows; nothing is published.

    What was published before an error is left to the next `sweep`: the next holder of the lock may
    be about to commit the same files.
    """
    opened, version = open_for(store, table, run_id)
    if version is None:
        opened = publish(
            store, table, run_id, files, opened,
            replaced=replaced, seen=seen, before=before, attempts=attempts,
        )  # fmt: skip
    return int(opened.version())


def publish(
    store: Lake,
    table: str,
    run_id: str,
    files: Sequence[DataFile],
    base: DeltaTable,
    *,
    replaced: Sequence[LiveFile] = (),
    seen: Sequence[LiveFile] | None = None,
    before: Callable[[], None] = lambda: None,
    attempts: int = ATTEMPTS,
) -> DeltaTable:
    """The same as `land` for a run that is not in the table yet.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        run_id: The run.
        files: See `land`.
        base: The table as `open_for` found it, without the run. The first attempt lands as the
            version after it, or not at all.
        replaced: See `land`.
        seen: See `land`.
        before: See `land`.
        attempts: See `land`.

    Returns:
        The table with the run, as it was read after the commit.
    """
    check_replaceable(store, table, replaced)
    for file in files:
        before()
        if file.merged != file.target:
            store.copy(file.merged, file.target)
    return _commit(store, table, run_id, files, base, replaced, seen, before, attempts)


def _unknown(run_id: str, table: str, reason: Exception) -> CommitUnknownError:
    return CommitUnknownError(
        f"it is unknown whether run {run_id} was committed to {table}: {paragraph_of(reason)}. "
        "Nothing was deleted; run the same command again, it reads the table's log first."
    )


def _commit(
    store: Lake,
    table: str,
    run_id: str,
    files: Sequence[DataFile],
    opened: DeltaTable,
    replaced: Sequence[LiveFile],
    seen: Sequence[LiveFile] | None,
    before: Callable[[], None],
    attempts: int,
) -> DeltaTable:
    engine, date, _ = layout.split_run_id(run_id)
    removed = [_remove(file, table, engine, date) for file in replaced]
    unknown: Exception | None = None
    num_unknown = 0
    for attempt in range(attempts):
        if attempt:
            pause = min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2**attempt)
            interrupt.sleep(pause * random.uniform(0.5, 1.0))
            try:
                opened, version = open_for(store, table, run_id)
            except LakeError as error:
                if unknown is None:
                    raise
                raise _unknown(run_id, table, error) from error
            if version is not None:
                return opened
        _check_replaced(store, opened, table, run_id, replaced, seen)
        fields = pa.schema(opened.schema().to_arrow())
        added = [_add(file, table, engine, date, fields) for file in files]
        before()
        try:
            # As the version after the one that was read, or not at all.
            is_written = log_mirror(store, table).append(
                store,
                int(opened.version()),
                [*added, *removed],
                SCHEMAS[table],
                app_transactions=[Transaction(run_id, 1)],
                metadata={"run_id": run_id},
            )
        except (LakeError, DeltaError, OSError) as error:
            # The log decides: the next attempt reads it before it writes.
            log.warning("commit to %s: outcome unknown: %s", table, paragraph_of(error))
            unknown = error
            num_unknown += 1
            if num_unknown == UNKNOWN_ATTEMPTS:
                break
        else:
            if not is_written:
                log.info("commit conflict on %s: another writer was first", table)
                continue
            now = _table_with(store, table, run_id, files)
            if now is not None:
                return now
            log.warning(
                "run %s was committed to %s, but its log does not contain it: another writer "
                "replaced the entry; committing again",
                run_id,
                table,
            )
            unknown = LakeError("the store accepted the log entry, then returned another one")
    opened, version = open_for(store, table, run_id)
    if version is not None:
        return opened
    if unknown is not None:
        # Even if a later attempt surely failed: an earlier write may still arrive.
        raise _unknown(run_id, table, unknown) from unknown
    raise CommitConflictError(
        f"the commit of run {run_id} to {table} lost against other writers {attempts} times; "
        "its rows are not committed and its work is kept: run the same command again."
    )


def _table_with(
    store: Lake, table: str, run_id: str, files: Sequence[DataFile]
) -> DeltaTable | None:
    """The current table, if it contains a run that was just committed, with all of its files.

    A missing file may have been rewritten since, in which case the log states that it was removed.
    """
    opened, version = open_for(store, table, run_id)
    if version is None:
        return None
    missing = {file.target for file in files} - {f.key for f in files_of(opened, table)}
    if missing and not missing <= removed_files(store, table):
        return None
    return opened


def _check_replaced(
    store: Lake,
    opened: DeltaTable,
    table: str,
    run_id: str,
    replaced: Sequence[LiveFile],
    seen: Sequence[LiveFile] | None,
) -> None:
    """Check that the table still contains what a change was computed from.

    Raises:
        StaleChangeError: It does not.
    """
    if not replaced and seen is None:
        return
    engine, date, _ = layout.split_run_id(run_id)
    live = set(files_in(opened, table, engine, date))
    gone = set(replaced) - live  # or had rows deleted since
    if gone or (seen is not None and live != set(seen)):
        example = f", for example {store.uri(min(file.key for file in gone))}" if gone else ""
        raise StaleChangeError(
            f"files of {date} in {table} were rewritten by another writer, such as an OPTIMIZE, "
            f"while run {run_id} computed their replacement{example}. Nothing of it is "
            "committed: run the same command again."
        )


def open_for(store: Lake, table: str, run_id: str) -> tuple[DeltaTable, int | None]:
    """Look at a table: its current version, and that of the run's transaction in this state.

    Returns:
        The table, which only its log may be asked of; and None if the run has not landed.

    Raises:
        LakeError: There is no such table, or it cannot be read.
    """
    found = query_log(store, table, lambda opened: (opened, opened.transaction_version(run_id)))
    if found is None:
        raise LakeError(
            f"the table {store.uri(table)} no longer exists: somebody deleted it. Restore it from "
            "a backup."
        )
    return found


def _add(file: DataFile, table: str, engine: str, date: str, fields: pa.Schema) -> AddAction:
    columns = pa.schema([field for field in fields if field.name not in ("engine", "date")])
    statistics = cover(file.stats, schema.TABLES[table], columns)
    return AddAction(
        path=file.target.removeprefix(f"{table}/"),
        size=file.bytes,
        partition_values={"engine": engine, "date": date},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps(statistics),
    )


def _remove(file: LiveFile, table: str, engine: str, date: str) -> RemoveAction:
    values: dict[str, Any] = {"engine": engine, "date": date}
    return RemoveAction(
        path=file.key.removeprefix(f"{table}/"),
        data_change=True,
        deletion_timestamp=int(time.time() * 1000),
        size=file.size_bytes,
        partition_values=values,
    )
