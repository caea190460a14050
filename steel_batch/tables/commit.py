"""Commits: how a run's rows become visible, once, whatever crashes in between.

Files are copied into the table's folder first and made visible to Delta readers by one log entry,
which carries the run's id as an application transaction: asking for that id tells after a crash
whether the commit landed. A commit has three outcomes: landed, surely failed, unknown. Where nobody
knows, the log is read again. A commit deletes nothing: that is left to `sweep`.

The protocol is delta-rs's; nothing here writes a log of its own. Readers that know nothing of
Delta see files as they are copied, one after the other, and replaced ones until a sweep. From the
first copy until the sweep right after the commit a plain glob shows a part of a date, or rows
beside those that take their place; where a run ends in between, until the date is run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
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
    paragraph_of,
)
from steel_batch.lake import Lake
from steel_batch.runs import plan
from steel_batch.tables.deletion_vectors import Kept, check_features, kept_rows, select
from steel_batch.tables.evolution import evolve
from steel_batch.tables.merge import DataFile
from steel_batch.tables.statistics import cover

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

ATTEMPTS: Final = 8
PAUSE_SECONDS: Final = 0.2
_PARTITION: Final = [
    pa.field("engine", pa.string(), nullable=False),
    pa.field("date", pa.date32(), nullable=False),
]
SCHEMAS: Final = {
    table: pa.schema([*_PARTITION, *fields]) for table, fields in schema.TABLES.items()
}
"""The tables' schemas with their partition columns, which stand in paths and not in files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFile:
    """One file that a table's log says is part of it."""

    key: str
    """Relative to the store."""
    engine: str
    date: str
    bytes: int
    num_rows: int
    """As the log counts them, also rows that were deleted since."""
    kept: Kept | None = None
    """Which rows are left; None where all of them are."""


def ensure_tables(store: Lake) -> None:
    """Create the three tables where they are missing; bring those of earlier builds up to date.

    Raises:
        LakeError: The store cannot be written, or a table is not one of ours.
    """
    for table, fields in SCHEMAS.items():
        if _open(store, table) is not None:
            evolve(partial(open_table, store, table), fields)
            continue
        try:
            store.ask(store.uri(table), partial(_create, store, table, fields))
        except (DeltaError, OSError) as error:
            # Two first runs may create the table at once; the loser finds it there.
            if _open(store, table) is None:
                raise LakeError(
                    f"the table {store.uri(table)} cannot be made: {paragraph_of(error)}. Check "
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
        # delta-rs would put a second creation, with another table's id, after the winner's.
        commit_properties=CommitProperties(max_commit_retries=0),
    )


def _ask(store: Lake, table: str, question: Callable[[DeltaTable], Answer]) -> Answer | None:
    """An answer of the table as it is now, which may take requests too; none where it is not."""
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
    """The table as it is now.

    Raises:
        LakeError: It is not there or cannot be read.
    """
    found = _open(store, table)
    if found is None:
        raise LakeError(
            f"there is no table {store.uri(table)}: nothing was scored into this store yet, or "
            "--store names another place."
        )
    return found


def all_live_files(store: Lake, table: str) -> list[LiveFile]:
    """The files that are committed, in the order of their keys; none where there is no table."""
    return _ask(store, table, partial(files_of, table=table)) or []


def files_of(opened: DeltaTable, table: str) -> list[LiveFile]:
    """The files of a table in the very version that is open, in the order of their keys."""
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
    """The committed files of one engine and date, in the order of their keys."""
    return [f for f in all_live_files(store, table) if (f.engine, f.date) == (engine, date)]


def read_file(
    store: Lake, key: str, fields: pa.Schema, *, kept: Kept | None = None
) -> Iterator[pa.RecordBatch]:
    """Some columns of one file, or but some fields of their structs, as a stream.

    What is not in `fields` is not read: run-lengths are nine tenths of the predictions' bytes.

    Args:
        store: The store.
        key: The file.
        fields: The columns. One that may be null is null where an earlier build wrote none.
        kept: `LiveFile.kept`: rows that were deleted are left out.

    Raises:
        LakeError: It is not there, or damaged.
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
            f"{store.uri(key)} is committed and cannot be read: {paragraph_of(error)}. Bring back "
            "a copy of it; `steel-batch verify` names every such file."
        ) from error


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    """The columns of a Parquet file that hold a field."""
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    return [path]


def read_rows(
    store: Lake, table: str, engine: str, date: str, fields: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Some columns of every committed row of an engine and date; see `read_file`."""
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
    """The keys of the images that are in quarantine."""
    fields = pa.schema([plan.KNOWN.field("image_key")])
    for batch in read_rows(store, layout.QUARANTINE, engine, date, fields):
        yield from batch["image_key"].to_pylist()


def digest_files(store: Lake, engine: str, date: str) -> str:
    """A digest of the names of the files that `known_images` reads, and of their deleted rows.

    It is another one as soon as a run of the engine and date lands.
    """
    tables = (layout.PREDICTIONS, layout.QUARANTINE)
    files = [file for table in tables for file in live_files(store, table, engine, date)]
    names = [f.key if f.kept is None else f"{f.key} {f.kept.hex()}" for f in files]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def check_replaceable(store: Lake, table: str, files: Sequence[LiveFile]) -> None:
    """Refuse to take the place of files with deleted rows: deltalake would leave them in the table.

    Raises:
        LakeError: Some have deleted rows; the message names one.
    """
    cut = [file.key for file in files if file.kept is not None]
    if cut:
        raise LakeError(
            f"this run would replace files of {store.uri(table)} in which another program deleted "
            f"rows by deletion vectors ({len(cut)} in all, for example {cut[0]}), and deltalake "
            "cannot take such a file out of a table. Have that program write the files without "
            "them (in Spark: REORG TABLE ... APPLY (PURGE)), then run the same command again."
        )


def sweep(
    store: Lake, table: str, engine: str, date: str, *, before: Callable[[], None]
) -> list[str]:
    """Delete what runs left in an engine's and date's partition of a table that no log names.

    That is what a commit replaced, and what a killed or abandoned run published before its commit;
    a run that is continued publishes it again. Only files that runs of this engine and date named
    are touched, and only the holder of the lock may call this.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        engine: The engine's name.
        date: YYYY-MM-DD.
        before: Called right before anything is deleted; raises to stop, as another holder of the
            lock may have committed since what no log named.

    Returns:
        The keys that were deleted.
    """
    live = {file.key for file in live_files(store, table, engine, date)}
    ours = f"{table}/{layout.partition(engine, date)}/part-{layout.run_prefix(engine, date)}"
    orphans = [item.key for item in store.list_objects(ours) if item.key not in live]
    if orphans:
        before()
        store.delete(orphans)
    return orphans


def landed(store: Lake, table: str, run_id: str) -> bool:
    """Whether the run's commit to a table is in its log."""
    return _ask(store, table, lambda opened: opened.transaction_version(run_id)) is not None


def land(
    store: Lake,
    table: str,
    run_id: str,
    files: Sequence[DataFile],
    *,
    replaced: Sequence[LiveFile] = (),
    before: Callable[[], None] = lambda: None,
    attempts: int = ATTEMPTS,
) -> int:
    """Publish a run's files to one table and commit them; idempotent.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        run_id: The run, whose id is the transaction.
        files: Complete merged files.
        replaced: Committed files whose rows `files` hold anew; removed by the same
            commit, and deleted by the next `sweep`.
        before: Called right before each file is published and right before the log is written;
            raises to stop.
        attempts: How often the log is written before this gives up.

    Returns:
        The table's version that has the run's rows.

    Raises:
        CommitConflictError: It surely failed.
        CommitUnknownError: Nobody knows; the same call may be repeated.
        LakeError: A replaced file has deleted rows; nothing is published.

    What was published before an error is left to the next `sweep`: whoever has the lock by then
    may be about to commit the same files.
    """
    if not landed(store, table, run_id):
        check_replaceable(store, table, replaced)
        for file in files:
            before()
            store.copy(file.merged, file.target)
        _commit(store, table, run_id, files, replaced, before, attempts)
    return int(open_table(store, table).version())


def _commit(
    store: Lake,
    table: str,
    run_id: str,
    files: Sequence[DataFile],
    replaced: Sequence[LiveFile],
    before: Callable[[], None],
    attempts: int,
) -> None:
    engine, date, _ = layout.split_run_id(run_id)
    removed = [_remove(file, table, engine, date) for file in replaced]
    conflict: Exception | None = None
    unknown: Exception | None = None
    for attempt in range(attempts):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            opened, version = _open_for(store, table, run_id)
        except LakeError as error:
            if unknown is None:
                raise
            unknown = error
            break
        if version is not None:
            return
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
                    app_transactions=[Transaction(run_id, 1)], custom_metadata={"run_id": run_id}
                ),
            )
        except CommitFailedError as error:
            log.info("commit conflict on %s: %s", table, paragraph_of(error))
            conflict = error
        except (DeltaError, OSError) as error:
            # The log decides: the next attempt reads it before it writes.
            log.warning("commit to %s: outcome unknown: %s", table, paragraph_of(error))
            unknown = error
        else:
            return
    else:
        if landed(store, table, run_id):
            return
    if unknown is not None:
        # Also where a later attempt surely failed: what was sent before may still arrive.
        raise CommitUnknownError(
            f"nobody knows whether run {run_id} was committed to {table}: {paragraph_of(unknown)}. "
            "Nothing was deleted; run the same command again, it reads the table's log first."
        ) from unknown
    raise CommitConflictError(
        f"the commit of run {run_id} to {table} lost against other writers {attempts} times; "
        "its rows are not committed and its work is kept: run the same command again."
    ) from conflict


def _open_for(store: Lake, table: str, run_id: str) -> tuple[DeltaTable, int | None]:
    """The table, and the version of the run's transaction in that very state of it."""
    found = _ask(store, table, lambda opened: (opened, opened.transaction_version(run_id)))
    if found is None:
        raise LakeError(f"there is no table {store.uri(table)} any more.")
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
