"""The three Delta tables of a store: creating, opening and querying their logs.

A table's log alone states what is part of it: which files, which of their rows, which runs. Nothing
here reads rows. What only concerns the log is asked of a copy on this machine (`log_mirror`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from steel_batch import layout, schema
from steel_batch.errors import LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.lake.turns import Turn
from steel_batch.tables.deletion_vectors import (
    Kept,
    check_features,
    kept_rows,
    may_have_vectors,
)
from steel_batch.tables.evolution import evolve, is_current
from steel_batch.tables.log_mirror import log_mirror
from steel_batch.tables.log_tails import save_tails
from steel_batch.tables.provenance import missing_entries, removals

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

CHECKPOINT_EVERY: Final = 10
"""Entries of a log from one checkpoint to the next: see docs/decisions/commits.md."""
CLEAN_UP_EVERY: Final = 100
LOG_RETENTION_SECONDS: Final = 30 * 24 * 3600.0
"""Deltalake's default: how long the entries before a checkpoint are kept."""

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
    size_bytes: int
    num_rows: int
    """As stated in the log; includes rows that were deleted since."""
    kept: Kept | None = None
    """Which rows are left; None if all of them are."""


def ensure_tables(store: Lake, tables: Collection[str] = layout.TABLES) -> None:
    """Create missing tables; bring those of earlier builds up to date.

    Args:
        store: The store.
        tables: Those that may be missing or of an earlier build.

    Raises:
        LakeError: The store cannot be written, or a table was not created by steel-batch.
    """
    for table in tables:
        fields = SCHEMAS[table]
        found = query_log(store, table, partial(is_current, fields=fields))
        if found is False:
            with commit_turn(store):
                evolve(partial(open_table, store, table), fields)
        if found is not None:
            continue
        try:
            with commit_turn(store):
                store.call_with_retry(store.uri(table), partial(_create, store, table, fields))
        except (DeltaError, OSError) as error:
            # Two first runs may create the table at once; the second one finds it.
            if find_table(store, table) is None:
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


def query_table(store: Lake, table: str, question: Callable[[DeltaTable], Answer]) -> Answer | None:
    """Open the current table and call a function with it, with the store's retries.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        question: Called with the table; it may make requests, too.

    Returns:
        Its answer; None if there is no table.

    Raises:
        LakeError: The table cannot be read.
    """
    return _ask(store, table, partial(_open, store, table), question)


def query_log(store: Lake, table: str, question: Callable[[DeltaTable], Answer]) -> Answer | None:
    """Look at the current table's log, and call a function with the table as the log has it.

    One request if nothing is new since the last look of this process.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        question: Called with the table, which has no data files: it may only depend on the log.

    Returns:
        Its answer; None if there is no table.

    Raises:
        LakeError: The log cannot be read.
    """

    def look() -> DeltaTable | None:
        opened = log_mirror(store, table).look(store)
        if opened is not None and may_have_vectors(opened):
            return _open(store, table)  # they are in files of their own
        return opened

    return _ask(store, table, look, question)


def _open(store: Lake, table: str) -> DeltaTable:
    return DeltaTable(store.uri(table), storage_options=store.storage_options())


def _ask(
    store: Lake,
    table: str,
    find: Callable[[], DeltaTable | None],
    question: Callable[[DeltaTable], Answer],
) -> Answer | None:
    uri = store.uri(table)

    def ask() -> Answer | None:
        opened = find()
        if opened is None:
            return None
        check_features(opened, uri)
        return question(opened)

    try:
        return store.call_with_retry(uri, ask)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        missing = missing_entries(store, table)
        found = (
            f"its log lacks {', '.join(map(store.uri, missing))}. Restore the entry from a backup, "
            "or from the bucket's versions"
            if missing
            else paragraph_of(error)
        )
        raise LakeError(f"the table {uri} cannot be read: {found}.") from error


def find_table(store: Lake, table: str) -> DeltaTable | None:
    """The current table; None if there is none."""
    return query_table(store, table, lambda opened: opened)


def open_table(store: Lake, table: str) -> DeltaTable:
    """Open the table in its current version.

    Raises:
        LakeError: It does not exist or cannot be read.
    """
    found = find_table(store, table)
    if found is None:
        raise LakeError(
            f"there is no table {store.uri(table)}: nothing has been scored into this store yet, "
            "or --store names another place. Check --store."
        )
    return found


def all_live_files(store: Lake, table: str) -> list[LiveFile]:
    """The committed files, sorted by key; none if there is no table."""
    return query_log(store, table, partial(files_of, table=table)) or []


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
            size_bytes=size,
            num_rows=num or 0,
            kept=kept.get(path),
        )
        for path, engine, date, size, num in rows
    ]
    return sorted(files, key=lambda file: file.key)


def live_files(store: Lake, table: str, engine: str, date: str) -> list[LiveFile]:
    """The committed files of one engine and date, sorted by key."""
    found = query_log(store, table, lambda opened: files_in(opened, table, engine, date))
    return found or []


def files_in(opened: DeltaTable, table: str, engine: str, date: str) -> list[LiveFile]:
    """The files of one engine and date in the opened version, sorted by key."""
    return [f for f in files_of(opened, table) if (f.engine, f.date) == (engine, date)]


def look_at_date(
    store: Lake, table: str, engine: str, date: str
) -> tuple[list[LiveFile], bool] | None:
    """The committed files of one engine and date, and whether `ensure_tables` has nothing to do.

    Returns:
        Both from one look at the log; None if there is no table.
    """

    def ask(opened: DeltaTable) -> tuple[list[LiveFile], bool]:
        return files_in(opened, table, engine, date), is_current(opened, fields=SCHEMAS[table])

    return query_log(store, table, ask)


def landed(store: Lake, table: str, run_id: str) -> bool:
    """Whether the run's commit to a table is in its log."""
    return query_log(store, table, lambda opened: opened.transaction_version(run_id)) is not None


def landed_runs(store: Lake, table: str, run_ids: Sequence[str]) -> set[str]:
    """Which of these runs have a commit in a table's log."""

    def ask(opened: DeltaTable) -> set[str]:
        return {run_id for run_id in run_ids if opened.transaction_version(run_id) is not None}

    return query_log(store, table, ask) or set()


def removed_files(store: Lake, table: str) -> set[str]:
    """Files that were removed from the table, by any program, as far back as its log goes.

    A checkpoint forgets them after a week, so the entries before it are read, too.
    """
    removed = query_table(
        store,
        table,
        lambda opened: opened.vacuum(
            retention_hours=0, dry_run=True, enforce_retention_duration=False
        ),
    )
    if removed is None:
        return set()
    live = {file.key for file in all_live_files(store, table)}
    return {f"{table}/{path}" for path in removed} | (removals(store, table) - live)


def write_checkpoints(store: Lake) -> None:
    """Write a checkpoint of a table whose last one is `CHECKPOINT_EVERY` entries old.

    If there are several, only of the one with the most entries since then; the next runs write the
    others, so that no run makes many requests. To be called right after the tables were looked at.
    Old entries are cleaned up as deltalake does by default: every `CLEAN_UP_EVERY` entries, those
    of more than 30 days. If the store fails, no checkpoint is written: readers do without it, and
    the next commit tries again.
    """
    table = max(SCHEMAS, key=lambda each: log_mirror(store, each).num_since_checkpoint)
    try:
        made = log_mirror(store, table).checkpoint(store, CHECKPOINT_EVERY)
        if made is not None and made.version // CLEAN_UP_EVERY > made.last // CLEAN_UP_EVERY:
            _clean_up(store, table, made.properties)
    except (LakeError, DeltaError, OSError) as error:
        log.warning("no checkpoint of %s was written: %s", store.uri(table), paragraph_of(error))


def leave_tails(store: Lake) -> None:
    """Leave what this process knows of the ends of the logs for the next one; see `log_tails`."""
    try:
        save_tails(store, {table: log_mirror(store, table).tail() for table in SCHEMAS})
    except LakeError as error:
        log.warning("%s was not written: %s", store.uri(layout.LOG_TAILS), paragraph_of(error))


def _clean_up(store: Lake, table: str, properties: Mapping[str, str]) -> None:
    """Let deltalake clean up a log, unless its oldest entry shows that there is nothing to do."""
    if properties.get("delta.enableExpiredLogCleanup", "true") == "false":
        return
    if "delta.logRetentionDuration" not in properties:
        place = f"{table}/_delta_log/"
        oldest = next(store.list_after(place, place), None)
        age_seconds = None if oldest is None else store.age_seconds(oldest.key)
        if age_seconds is None or age_seconds < LOG_RETENTION_SECONDS:
            return
    query_table(store, table, lambda opened: opened.cleanup_metadata())


def commit_turn(store: Lake) -> AbstractContextManager[object]:
    """A turn to commit, for stores that do not decide between two writers."""
    return Turn(store, layout.turns("commits")) if store.single_writer else nullcontext()
