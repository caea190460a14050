"""The three Delta tables of a store: creating, opening and querying their logs.

A table's log alone states what is part of it: which files, which of their rows, which runs. Nothing
here reads rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from steel_batch.tables.deletion_vectors import Kept, check_features, kept_rows
from steel_batch.tables.evolution import evolve
from steel_batch.tables.provenance import missing_entries

Answer = TypeVar("Answer")

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


def ensure_tables(store: Lake) -> None:
    """Create missing tables; bring those of earlier builds up to date.

    Raises:
        LakeError: The store cannot be written, or a table was not created by steel-batch.
    """
    for table, fields in SCHEMAS.items():
        if find_table(store, table) is not None:
            with commit_turn(store):
                evolve(partial(open_table, store, table), fields)
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
    uri = store.uri(table)

    def ask() -> Answer:
        opened = DeltaTable(uri, storage_options=store.storage_options())
        check_features(opened)
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
    return query_table(store, table, partial(files_of, table=table)) or []


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
    return [f for f in all_live_files(store, table) if (f.engine, f.date) == (engine, date)]


def landed(store: Lake, table: str, run_id: str) -> bool:
    """Whether the run's commit to a table is in its log."""
    return query_table(store, table, lambda opened: opened.transaction_version(run_id)) is not None


def landed_runs(store: Lake, table: str, run_ids: Sequence[str]) -> set[str]:
    """Which of these runs have a commit in a table's log."""

    def ask(opened: DeltaTable) -> set[str]:
        return {run_id for run_id in run_ids if opened.transaction_version(run_id) is not None}

    return query_table(store, table, ask) or set()


def removed_files(store: Lake, table: str) -> set[str]:
    """Files that were removed from the table, by any program, as far back as its log goes."""
    removed = query_table(
        store,
        table,
        lambda opened: opened.vacuum(
            retention_hours=0, dry_run=True, enforce_retention_duration=False
        ),
    )
    return {f"{table}/{path}" for path in removed or ()}


def commit_turn(store: Lake) -> AbstractContextManager[object]:
    """A turn to commit, for stores that do not decide between two writers."""
    return Turn(store, layout.turns("commits")) if store.single_writer else nullcontext()
