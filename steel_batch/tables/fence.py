"""Entries without files in the tables' logs, which keep a holder of a lost lock from landing."""

from __future__ import annotations

from typing import Final

from deltalake import Transaction
from deltalake.exceptions import DeltaError

from steel_batch import interrupt, layout
from steel_batch.errors import LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.tables.log_mirror import log_mirror
from steel_batch.tables.table_log import SCHEMAS, commit_turn, query_log

ATTEMPTS: Final = 40
PAUSE_SECONDS: Final = 0.1


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
    for _ in range(ATTEMPTS):
        found = query_log(
            store,
            table,
            lambda opened: (int(opened.version()), opened.transaction_version(writer)),
        )
        if found is None:
            return
        version, before = found
        try:
            is_written = log_mirror(store, table).append(
                store,
                version,
                [],
                SCHEMAS[table],
                app_transactions=[Transaction(writer, 1 + (before or 0))],
                metadata={"fence": writer},
            )
        except (LakeError, DeltaError, OSError) as error:
            raise LakeError(
                f"the log of {store.uri(table)} cannot be written: {paragraph_of(error)}. Check "
                "that this user may write to the store."
            ) from error
        if is_written:
            return
        interrupt.sleep(PAUSE_SECONDS)
    raise LakeError(
        f"the log of {store.uri(table)} cannot be written: other writers were first {ATTEMPTS} "
        "times. Run the same command again."
    )
