"""Deletes what a run left in a table's folder that is not part of the table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.tables.table_log import LiveFile, live_files, removed_files


def sweep(
    store: Lake,
    table: str,
    engine: str,
    date: str,
    *,
    before: Callable[[], None],
    keep: Collection[str] = (),
    live: Sequence[LiveFile] | None = None,
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
        live: The committed files of the engine and date, if the caller has looked at the log since
            it took the lock.

    Returns:
        The keys that were deleted.
    """
    if live is None:
        live = live_files(store, table, engine, date)
    committed = {file.key for file in live}
    place = f"{table}/{layout.partition(engine, date)}/"
    ours = f"{place}part-{layout.run_prefix(engine, date)}"
    unnamed = [item.key for item in store.list_objects(place) if item.key not in committed]
    orphans = [key for key in unnamed if key.startswith(ours) and key not in keep]
    others = [key for key in unnamed if not key.startswith(ours)]
    if others:
        dead = removed_files(store, table)
        orphans += [key for key in others if key in dead]
    if orphans:
        before()
        store.delete(orphans)
    return orphans
