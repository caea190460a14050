"""What `steel-batch gc` can delete: staging of finished runs, files in no log, incomplete writes.

Nothing that a reader or a resumable run needs is touched. Each engine and date is cleaned under its
lock, so a run in progress is left alone. If a run has a file that a newer build wrote, nothing in
the store is deleted: what such a run needs is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from steel_batch import layout
from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake, LakeObject
from steel_batch.lake.lock import Lease
from steel_batch.runs.receipt import check_formats
from steel_batch.runs.record import list_runs, read_run, read_runs, runs_of
from steel_batch.tables.fence import fence
from steel_batch.tables.file_checks import run_of
from steel_batch.tables.table_log import all_live_files, landed, removed_files

_PLACE: Final = re.compile(r"[^/]+/engine=(?P<engine>[^/]+)/date=(?P<date>[^/]+)/")
HALF_WRITTEN_SECONDS: Final = 24 * 3600.0
"""A write that began this long ago has no live writer: the largest file takes minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """One object that nothing needs."""

    key: str
    bytes: int
    reason: str
    engine: str
    """Empty, like the date, for objects without an engine and date: incomplete writes."""
    date: str


def find_garbage(
    store: Lake, *, engine: str | None = None, date: str | None = None
) -> Iterator[Garbage]:
    """List everything that may be deleted, and why, in a whole store or for one engine and date.

    Of a run that landed: its staged and merged files. Of one that was abandoned for a later run:
    its receipts as well. In the tables' folders: files that one of our runs wrote and no log lists
    (a run in progress may be about to commit them), and files that were removed according to the
    log. In a whole store also writes that have been incomplete for more than a day.

    Raises:
        FormatError: A run has a file of a newer format.
    """
    if engine is None or date is None:
        place, ids = "engine=", list(list_runs(store))
        yield from _half_written(store, dry_run=True)
    else:
        place, ids = f"{layout.partition(engine, date)}/", runs_of(store, engine, date)
    yield from _staging(store, ids)
    for table in layout.TABLES:
        yield from _unnamed(store, table, place)
    if place == "engine=":
        yield from _probes(store, dry_run=True)


def _unnamed(store: Lake, table: str, place: str) -> Iterator[Garbage]:
    """Files that a table's log does not list: written by our runs, or removed by any program."""
    live = {file.key for file in all_live_files(store, table)}
    removed: set[str] | None = None
    lost: dict[str, bool] = {}
    for item in store.list_objects(f"{table}/{place}"):
        if item.key in live:
            continue
        run = run_of(item.key)
        match = _PLACE.match(item.key)
        if run is None:
            if removed is None:
                removed = removed_files(store, table)
            if match is not None and item.key in removed:
                yield Garbage(
                    key=item.key, bytes=item.size_bytes, reason="removed according to the log",
                    engine=match["engine"], date=match["date"],
                )  # fmt: skip
            continue
        engine, date, _ = layout.split_run_id(run)
        if not item.key.startswith(f"{table}/{layout.partition(engine, date)}/"):
            continue
        if run not in lost:
            lost[run] = _is_lost(store, table, run)
        if not lost[run]:
            yield _garbage(item, run, "in no log")


def _is_lost(store: Lake, table: str, run_id: str) -> bool:
    """Whether a run committed to a table whose log lost it: its files are needed to restore it."""
    return read_run(store, run_id).result is not None and not landed(store, table, run_id)


def _staging(store: Lake, ids: Sequence[str]) -> Iterator[Garbage]:
    for run in read_runs(store, ids):
        folders: tuple[str, ...]
        if run.state == "committed":
            folders, reason = ("shards", "merged"), "its run landed"
        elif run.state == "abandoned":
            folders, reason = ("shards", "merged", "receipts"), "its run was abandoned"
            check_formats(store, run.run_id)
        else:
            continue
        for folder in folders:
            for item in store.list_objects(f"{layout.RUNS}/{run.run_id}/{folder}/"):
                yield _garbage(item, run.run_id, reason)


def _half_written(store: Lake, *, dry_run: bool) -> Iterator[Garbage]:
    reason = "its writer left it incomplete"
    for item in store.sweep(HALF_WRITTEN_SECONDS, dry_run=dry_run):
        yield Garbage(key=item.key, bytes=item.size_bytes, reason=reason, engine="", date="")


def _probes(store: Lake, *, dry_run: bool) -> Iterator[Garbage]:
    """Objects that killed commands left from testing whether the store decides between writers."""
    for item in store.list_objects(layout.probe_file("")):
        age = store.age_seconds(item.key)
        if age is not None and age > HALF_WRITTEN_SECONDS:
            if not dry_run:
                store.delete([item.key])
            reason = "its writer was killed"
            yield Garbage(key=item.key, bytes=item.size_bytes, reason=reason, engine="", date="")


def _garbage(item: LakeObject, run_id: str, reason: str) -> Garbage:
    engine, date, _ = layout.split_run_id(run_id)
    return Garbage(key=item.key, bytes=item.size_bytes, reason=reason, engine=engine, date=date)


def collect(store: Lake, *, lease_seconds: float = 60.0) -> Iterator[Garbage]:
    """Delete the garbage; yields what was deleted. Dates locked by a run are left for later."""
    places = sorted({(g.engine, g.date) for g in find_garbage(store) if g.engine})
    yield from _half_written(store, dry_run=False)
    for engine, date in places:
        lease = Lease(
            store,
            layout.lock_series(engine, date),
            what=f"engine {engine} and date {date}",
            lease_seconds=lease_seconds,
        )
        try:
            with lease:
                if lease.took_over:
                    fence(store, engine, date)
                # Checked again under the lock: what was garbage may be in use by now.
                found = list(find_garbage(store, engine=engine, date=date))
                lease.check()
                store.delete(g.key for g in found)
        except LockHeldError:
            continue
        yield from found
    yield from _probes(store, dry_run=False)
