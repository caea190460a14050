"""What `steel-batch gc` can delete: staging of finished runs, files in no log, incomplete writes.

Nothing that a reader or a resumable run needs is touched. Each engine and date is cleaned under its
lock, so a run in progress is left alone. If a run has a file that a newer build wrote, nothing in
the store is deleted: what such a run needs is not known here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from steel_batch import layout
from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake, LakeObject
from steel_batch.lake.lock import Lease
from steel_batch.runs.receipt import RECEIPTS_IN_PASSING, check_formats
from steel_batch.runs.record import list_runs, read_runs, runs_of
from steel_batch.tables.fence import fence
from steel_batch.tables.file_checks import run_of
from steel_batch.tables.table_log import all_live_files, landed_runs, removed_files

_PLACE: Final = re.compile(r"[^/]+/engine=(?P<engine>[^/]+)/date=(?P<date>[^/]+)/")
HALF_WRITTEN_SECONDS: Final = 24 * 3600.0
"""A write that began this long ago has no live writer: the largest file takes minutes."""

LIST_AT_ONCE: Final = 16


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
        place, head, ids = "engine=", "YYYY-MM", list(list_runs(store))
        yield from _half_written(store, dry_run=True)
    else:
        place, head = f"{layout.partition(engine, date)}/", layout.run_prefix(engine, date)
        ids = runs_of(store, engine, date)
    with ThreadPoolExecutor(len(layout.TABLES), "gc") as pool:
        unnamed = pool.map(lambda table: list(_unnamed(store, table, place)), layout.TABLES)
        yield from _staging(store, ids, len(head))
        for found in unnamed:
            yield from found
    if place == "engine=":
        yield from _probes(store, dry_run=True)


def _unnamed(store: Lake, table: str, place: str) -> Iterator[Garbage]:
    """Files that a table's log does not list: written by our runs, or removed by any program."""
    live = {file.key for file in all_live_files(store, table)}
    removed: set[str] | None = None
    orphans: dict[str, list[LakeObject]] = {}
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
        if item.key.startswith(f"{table}/{layout.partition(engine, date)}/"):
            orphans.setdefault(run, []).append(item)
    lost = _lost_runs(store, table, list(orphans)) if orphans else ()
    for run, items in orphans.items():
        if run not in lost:
            yield from (_garbage(item, run, "in no log") for item in items)


def _lost_runs(store: Lake, table: str, run_ids: Sequence[str]) -> set[str]:
    """Runs that committed to a table whose log lost them: their files are needed to restore it."""
    over = {run.run_id for run in read_runs(store, run_ids) if run.result is not None}
    return over - landed_runs(store, table, run_ids)


def _staging(store: Lake, ids: Sequence[str], head: int) -> Iterator[Garbage]:
    """What is staged of runs that are over.

    A listing returns a thousand objects, and a run of few shards has a dozen. So runs whose ids
    begin alike are listed together, unless they have so many receipts that those of their folders
    with staged files are faster.

    Args:
        store: The store.
        ids: All runs of some engines and dates.
        head: How many characters of their ids begin alike in one listing.
    """
    reasons: dict[str, dict[str, str]] = {}
    num_objects: Counter[str] = Counter()
    for run in read_runs(store, ids):
        folders = reasons.setdefault(run.run_id[:head], {})
        place = f"{layout.RUNS}/{run.run_id}"
        if run.state == "committed":
            folders |= {f"{place}/{name}/": "its run landed" for name in ("shards", "merged")}
        elif run.state == "abandoned":
            check_formats(store, run.run_id)
            names = ("shards", "merged", "receipts")
            folders |= {f"{place}/{name}/": "its run was abandoned" for name in names}
        num_objects[run.run_id[:head]] += 0 if run.record is None else run.record.num_shards
    prefixes: list[str] = []
    for start, folders in reasons.items():
        is_small = num_objects[start] <= RECEIPTS_IN_PASSING * len(folders)
        prefixes += [f"{layout.RUNS}/{start}"] if is_small and folders else folders
    known = {folder: reason for folders in reasons.values() for folder, reason in folders.items()}
    with ThreadPoolExecutor(LIST_AT_ONCE, "list") as pool:
        for found in pool.map(partial(_staged, store, known), prefixes):
            yield from found


def _staged(store: Lake, reasons: Mapping[str, str], prefix: str) -> list[Garbage]:
    """The objects under a prefix that are in one of some folders of runs."""
    found = []
    for item in store.list_objects(prefix):
        _, run_id, *rest = item.key.split("/")
        reason = reasons.get(f"{layout.RUNS}/{run_id}/{rest[0]}/") if len(rest) > 1 else None
        if reason is not None:
            found.append(_garbage(item, run_id, reason))
    return found


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
