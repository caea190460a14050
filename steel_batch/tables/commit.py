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

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from steel_batch import layout, schema
from steel_batch.errors import (
    CommitConflictError,
    CommitUnknownError,
    LakeError,
    MissingObjectError,
    StaleChangeError,
    paragraph_of,
)
from steel_batch.lake import Lake
from steel_batch.lake.turns import Turn
from steel_batch.runs import plan
from steel_batch.tables.deletion_vectors import Kept, check_features, kept_rows, select
from steel_batch.tables.evolution import evolve
from steel_batch.tables.merge import DataFile
from steel_batch.tables.statistics import cover

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

UNKNOWN_ATTEMPTS: Final = 8
"""Writes of unknown outcome before giving up: a store that refuses once keeps refusing."""
ATTEMPTS: Final = 40
"""Attempts to commit: of several concurrent writers, one lands in each attempt."""
PAUSE_SECONDS: Final = 0.05
MAX_PAUSE_SECONDS: Final = 2.0
_PARTITION: Final = [
    pa.field("engine", pa.string(), nullable=False),
    pa.field("date", pa.date32(), nullable=False),
]
SCHEMAS: Final = {
    table: pa.schema([*_PARTITION, *fields]) for table, fields in schema.TABLES.items()
}
"""The tables' schemas with their partition columns, which are in paths and not in files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFile:
    """One file that a table's log lists as part of the table."""

    key: str
    """Relative to the store's root."""
    engine: str
    date: str
    bytes: int
    num_rows: int
    """As stated in the log; includes rows that were deleted since."""
    kept: Kept | None = None
    """Which rows are left; None if all of them are."""


def ensure_tables(store: Lake) -> None:
    """Create missing tables; bring those of earlier builds up to date.

    Raises:
        LakeError: The store cannot be written, or a table was not created by steel-batch.
    """
    for table, fields in SCHEMAS.items():
        if _open(store, table) is not None:
            with commit_turn(store):
                evolve(partial(open_table, store, table), fields)
            continue
        try:
            with commit_turn(store):
                store.ask(store.uri(table), partial(_create, store, table, fields))
        except (DeltaError, OSError) as error:
            # Two first runs may create the table at once; the second one finds it.
            if _open(store, table) is None:
                raise LakeError(
                    f"the table {store.uri(table)} cannot be created: {paragraph_of(error)}. Check "
                    "--store, and that this user may write there."
                ) from error


def _create(store: Lake, table: str, fields: pa.Schema) -> None:
    DeltaTable.create(
        store.uri(table),
        fields,
        mode="ignore",
        partition_by=["engine", "date"],
        storage_options=store.storage_options(),
        name=table,
        # delta-rs would add a second creation, with another table id, after the first.
        commit_properties=CommitProperties(max_commit_retries=0),
    )


def _ask(store: Lake, table: str, question: Callable[[DeltaTable], Answer]) -> Answer | None:
    """An answer about the table's current state, which may take requests; None without a table."""
    uri = store.uri(table)

    def ask() -> Answer:
        opened = DeltaTable(uri, storage_options=store.storage_options())
        check_features(opened)
        return question(opened)

    try:
        return store.ask(uri, ask)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise LakeError(f"the table {uri} cannot be read: {paragraph_of(error)}.") from error


def _open(store: Lake, table: str) -> DeltaTable | None:
    return _ask(store, table, lambda opened: opened)


def open_table(store: Lake, table: str) -> DeltaTable:
    """Open the table in its current version.

    Raises:
        LakeError: It does not exist or cannot be read.
    """
    found = _open(store, table)
    if found is None:
        raise LakeError(
            f"there is no table {store.uri(table)}: nothing has been scored into this store yet, "
            "or --store names another place. Check --store."
        )
    return found


def all_live_files(store: Lake, table: str) -> list[LiveFile]:
    """The committed files, sorted by key; none if there is no table."""
    return _ask(store, table, partial(files_of, table=table)) or []


def files_of(opened: DeltaTable, table: str) -> list[LiveFile]:
    """The files of a table in the opened version, sorted by key."""
    actions = pa.table(opened.get_add_actions(flatten=True))
    kept = kept_rows(opened)
    partition = [pc.cast(actions[f"partition.{name}"], pa.string()) for name in ("engine", "date")]
    columns = [actions["path"], *partition, actions["size_bytes"], actions["num_records"]]
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    files = [
        LiveFile(
            key=f"{table}/{path}",
            engine=engine,
            date=date,
            bytes=size,
            num_rows=num or 0,
            kept=kept.get(path),
        )
        for path, engine, date, size, num in rows
    ]
    return sorted(files, key=lambda file: file.key)


def live_files(store: Lake, table: str, engine: str, date: str) -> list[LiveFile]:
    """The committed files of one engine and date, sorted by key."""
    return [f for f in all_live_files(store, table) if (f.engine, f.date) == (engine, date)]


def read_file(
    store: Lake, key: str, fields: pa.Schema, *, kept: Kept | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of one file, or only some fields of their structs.

    Anything not in `fields` is not read: run-lengths are nine tenths of the predictions' bytes.

    Args:
        store: The store.
        key: The file.
        fields: The columns. A nullable one is null if an earlier build did not write it.
        kept: `LiveFile.kept`: deleted rows are left out.

    Raises:
        LakeError: It does not exist, or is damaged.
    """
    try:
        with store.open_input(key) as stream, pq.ParquetFile(stream) as parquet:
            there = pa.schema([f for f in fields if f.name in parquet.schema_arrow.names])
            leaves = [leaf for field in there for leaf in _leaves(field.name, field.type)]
            start = 0
            for batch in parquet.iter_batches(columns=leaves):
                rows = schema.conform(batch.select(there.names), fields)
                if kept is not None:
                    rows = rows.filter(pa.array(select(kept, start, batch.num_rows)))
                start += batch.num_rows
                yield rows
    except (pa.ArrowException, OSError, MissingObjectError) as error:
        raise LakeError(
            f"{store.uri(key)} is committed but cannot be read: {paragraph_of(error)}. Restore it "
            "from a backup; `steel-batch verify` lists every such file."
        ) from error


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    """Paths of the Parquet columns that hold a field."""
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    return [path]


def read_rows(
    store: Lake, table: str, engine: str, date: str, fields: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of every committed row of an engine and date; see `read_file`."""
    for file in live_files(store, table, engine, date):
        yield from read_file(store, file.key, fields, kept=file.kept)


def known_images(store: Lake, engine: str, date: str) -> Iterator[pa.RecordBatch]:
    """Key and etag of every image that has a committed row, or a quarantine entry with its code."""
    no_code = [field for field in plan.KNOWN if field.name != "error_code"]
    for batch in read_rows(store, layout.PREDICTIONS, engine, date, pa.schema(no_code)):
        codes = pa.nulls(batch.num_rows, pa.string())
        yield pa.RecordBatch.from_arrays([*batch.columns, codes], schema=plan.KNOWN)
    yield from read_rows(store, layout.QUARANTINE, engine, date, plan.KNOWN)


def quarantined_keys(store: Lake, engine: str, date: str) -> Iterator[str]:
    """The keys of the images in quarantine."""
    fields = pa.schema([plan.KNOWN.field("image_key")])
    for batch in read_rows(store, layout.QUARANTINE, engine, date, fields):
        yield from batch["image_key"].to_pylist()


def digest_files(store: Lake, engine: str, date: str) -> str:
    """A digest of the names of the files that `known_images` reads, and of their deleted rows.

    It changes with every commit of a run of the engine and date.
    """
    tables = (layout.PREDICTIONS, layout.QUARANTINE)
    files = [file for table in tables for file in live_files(store, table, engine, date)]
    names = [f.key if f.kept is None else f"{f.key} {f.kept.hex()}" for f in files]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


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


def sweep(
    store: Lake,
    table: str,
    engine: str,
    date: str,
    *,
    before: Callable[[], None],
    keep: Collection[str] = (),
) -> list[str]:
    """Delete what the log does not list from an engine's and date's partition of a table.

    That is what a commit replaced, whoever wrote it, and what a killed or abandoned run published
    before its commit; a resumed run publishes it again. Files of other programs are only deleted if
    the log states that they were removed. Only the holder of the lock may call this.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        engine: The engine's name.
        date: YYYY-MM-DD.
        before: Called right before anything is deleted; raises to stop, as another holder of the
            lock may have committed the files since.
        keep: Files that were just committed; they stay, whatever the log states now.

    Returns:
        The keys that were deleted.
    """
    live = {file.key for file in live_files(store, table, engine, date)}
    place = f"{table}/{layout.partition(engine, date)}/"
    ours = f"{place}part-{layout.run_prefix(engine, date)}"
    unnamed = [item.key for item in store.list_objects(place) if item.key not in live]
    orphans = [key for key in unnamed if key.startswith(ours) and key not in keep]
    others = [key for key in unnamed if not key.startswith(ours)]
    if others:
        dead = removed_files(store, table)
        orphans += [key for key in others if key in dead]
    if orphans:
        before()
        store.delete(orphans)
    return orphans


def commit_turn(store: Lake) -> AbstractContextManager[object]:
    """A turn to commit, for stores that do not decide between two writers."""
    return Turn(store, layout.turns("commits")) if store.single_writer else nullcontext()


def landed(store: Lake, table: str, run_id: str) -> bool:
    """Whether the run's commit to a table is in its log."""
    return _ask(store, table, lambda opened: opened.transaction_version(run_id)) is not None


def landed_runs(store: Lake, table: str, run_ids: Sequence[str]) -> set[str]:
    """Which of these runs have a commit in a table's log."""

    def ask(opened: DeltaTable) -> set[str]:
        return {run_id for run_id in run_ids if opened.transaction_version(run_id) is not None}

    return _ask(store, table, ask) or set()


def removed_files(store: Lake, table: str) -> set[str]:
    """Files that were removed from the table, by any program, as far back as its log goes."""
    removed = _ask(
        store,
        table,
        lambda opened: opened.vacuum(
            retention_hours=0, dry_run=True, enforce_retention_duration=False
        ),
    )
    return {f"{table}/{path}" for path in removed or ()}


def fence(store: Lake, engine: str, date: str) -> None:
    """Write an entry without files to each table's log, so that no earlier writer can land.

    A holder of the lock that was suspended between checking it and writing the log would write the
    version after the one that it read; that version is then taken. To be called after taking over
    a lock.

    Raises:
        LakeError: A log cannot be written.
    """
    with commit_turn(store):
        for table in layout.TABLES:
            _fence(store, table, f"lock-{engine}-{date}")


def _fence(store: Lake, table: str, writer: str) -> None:
    found = _ask(store, table, lambda opened: (opened, opened.transaction_version(writer)))
    if found is None:
        return
    opened, before = found
    try:
        opened.create_write_transaction(
            [],
            "append",
            SCHEMAS[table],
            partition_by=["engine", "date"],
            commit_properties=CommitProperties(
                app_transactions=[Transaction(writer, 1 + (before or 0))],
                custom_metadata={"fence": writer},
            ),
        )
    except (DeltaError, OSError) as error:
        raise LakeError(
            f"the log of {store.uri(table)} cannot be written: {paragraph_of(error)}. Check that "
            "this user may write to the store."
        ) from error


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
    is_new: bool = False,
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
        is_new: The caller has just checked that the run has not landed: publish without checking
            again.

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
    if not is_new and landed(store, table, run_id):
        return int(open_table(store, table).version())
    check_replaceable(store, table, replaced)
    for file in files:
        before()
        if file.merged != file.target:
            store.copy(file.merged, file.target)
    return _commit(store, table, run_id, files, replaced, seen, before, attempts)


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
    replaced: Sequence[LiveFile],
    seen: Sequence[LiveFile] | None,
    before: Callable[[], None],
    attempts: int,
) -> int:
    engine, date, _ = layout.split_run_id(run_id)
    removed = [_remove(file, table, engine, date) for file in replaced]
    conflict: Exception | None = None
    unknown: Exception | None = None
    num_unknown = 0
    for attempt in range(attempts):
        if attempt:
            pause = min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2**attempt)
            time.sleep(pause * random.uniform(0.5, 1.0))
        try:
            opened, version = _open_for(store, table, run_id)
        except LakeError as error:
            if unknown is None:
                raise
            raise _unknown(run_id, table, error) from error
        if version is not None:
            return int(opened.version())
        _check_replaced(store, opened, table, run_id, replaced, seen)
        fields = pa.schema(opened.schema().to_arrow())
        added = [_add(file, table, engine, date, fields) for file in files]
        before()
        try:
            opened.create_write_transaction(
                [*added, *removed],
                "append",
                SCHEMAS[table],
                partition_by=["engine", "date"],
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(run_id, 1)],
                    custom_metadata={"run_id": run_id},
                    # As the version after the one that was read, or not at all.
                    max_commit_retries=0,
                ),
            )
        except CommitFailedError as error:
            log.info("commit conflict on %s: %s", table, paragraph_of(error))
            conflict = error
        except (DeltaError, OSError) as error:
            # The log decides: the next attempt reads it before it writes.
            log.warning("commit to %s: outcome unknown: %s", table, paragraph_of(error))
            unknown = error
            num_unknown += 1
            if num_unknown == UNKNOWN_ATTEMPTS:
                break
        else:
            now = _version_with(store, table, run_id, files)
            if now is not None:
                return now
            log.warning(
                "run %s was committed to %s, but its log does not contain it: another writer "
                "replaced the entry; committing again",
                run_id,
                table,
            )
            unknown = LakeError("the store accepted the log entry, then returned another one")
    opened, version = _open_for(store, table, run_id)
    if version is not None:
        return int(opened.version())
    if unknown is not None:
        # Even if a later attempt surely failed: an earlier write may still arrive.
        raise _unknown(run_id, table, unknown) from unknown
    raise CommitConflictError(
        f"the commit of run {run_id} to {table} lost against other writers {attempts} times; "
        "its rows are not committed and its work is kept: run the same command again."
    ) from conflict


def _version_with(store: Lake, table: str, run_id: str, files: Sequence[DataFile]) -> int | None:
    """The table's version, if it contains a run that was just committed, with all of its files.

    A missing file may have been rewritten since, in which case the log states that it was removed.
    """
    opened, version = _open_for(store, table, run_id)
    if version is None:
        return None
    missing = {file.target for file in files} - {f.key for f in files_of(opened, table)}
    if missing and not missing <= removed_files(store, table):
        return None
    return int(opened.version())


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
    live = {f for f in files_of(opened, table) if (f.engine, f.date) == (engine, date)}
    gone = set(replaced) - live  # or had rows deleted since
    if gone or (seen is not None and live != set(seen)):
        example = f", for example {store.uri(min(file.key for file in gone))}" if gone else ""
        raise StaleChangeError(
            f"files of {date} in {table} were rewritten by another writer, such as an OPTIMIZE, "
            f"while run {run_id} computed their replacement{example}. Nothing of it is "
            "committed: run the same command again."
        )


def _open_for(store: Lake, table: str, run_id: str) -> tuple[DeltaTable, int | None]:
    """The table, and the version of the run's transaction in exactly that state."""
    found = _ask(store, table, lambda opened: (opened, opened.transaction_version(run_id)))
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
        size=file.bytes,
        partition_values=values,
    )
