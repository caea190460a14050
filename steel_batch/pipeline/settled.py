"""Finds dates that need nothing: every image has its row, every run its commit.

A date that is opened (`open_date`) takes its lock and reads each log several times, to find in most
of an archive that nothing is new. Here the runs and logs of all dates are read once, without locks,
and dates are listed several at a time. A date counts as settled only if opening it would change
nothing: what was committed is in the logs, no file is left over, no run is unfinished, and each
listed image has a row or an entry. All others, and those that cannot be read, are to be opened.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from steel_batch import layout
from steel_batch.errors import SteelBatchError
from steel_batch.pipeline.open_date import nothing_new
from steel_batch.pipeline.scope import DateScope, Scope
from steel_batch.runs.choosing import FORMER_KEY, OF_A_MOMENT
from steel_batch.runs.record import Run, RunResult, list_runs, try_runs
from steel_batch.sources.undated import ImagesByDate
from steel_batch.tables.committed import known_in
from steel_batch.tables.file_lists import load_many_files
from steel_batch.tables.mending import lost_runs
from steel_batch.tables.table_log import LiveFile, all_live_files

DATES_AT_ONCE: Final = 8
MOST_ROWS: Final = 200_000
"""A date with more rows is opened: what that costs besides its images is little, and the keys of a
date are held in memory here."""
_FORMER: Final = re.compile(FORMER_KEY)
_PLACE: Final = re.compile(r"[^/]+/engine=[^/]+/date=(?P<date>[^/]+)/")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Date:
    """What is committed of a date."""

    runs: list[Run] = field(default_factory=list)
    """Oldest first."""
    files: dict[str, list[LiveFile]] = field(default_factory=dict)
    """By table."""
    is_open: bool = False
    """Whether something is left to do, or not known."""


def settled_dates(scope: Scope, dates: Collection[str]) -> Iterator[RunResult]:
    """Find the dates that need nothing, in no particular order.

    Args:
        scope: The command.
        dates: The dates that are looked at.

    Yields:
        What scoring such a date would return. Nothing is written.
    """
    if scope.config.retry_quarantined:
        return
    try:
        found = _look(scope, dates)
    except SteelBatchError as error:  # opening a date tells what is wrong with it
        log.info("each date is opened: %s", error)
        return
    chosen = [date for date in dates if date in found and _is_whole(found[date])]
    with ThreadPoolExecutor(DATES_AT_ONCE, "settled") as pool:
        results = pool.map(lambda date: _result_of(scope.at(date), found[date]), chosen)
        yield from (result for result in results if result is not None)


def _is_whole(date: _Date) -> bool:
    """Whether nothing is left to do for the runs and tables of a date."""
    files = date.files.get(layout.PREDICTIONS, []) + date.files.get(layout.QUARANTINE, [])
    num_rows = sum(file.num_rows for file in files)
    return bool(
        date.runs
        and date.runs[-1].state == "committed"
        and not date.is_open
        and num_rows <= MOST_ROWS
    )


def _look(scope: Scope, dates: Collection[str]) -> dict[str, _Date]:
    """What the runs and the tables of an engine show of some dates."""
    store, engine = scope.store, scope.engine_name
    found = {date: _Date() for date in dates}
    owner: dict[str, _Date] = {}
    for run_id in list_runs(store):
        its_engine, date, _ = layout.split_run_id(run_id)
        if its_engine == engine and date in found:
            owner[run_id] = found[date]
    over: dict[str, None] = {}
    for run_id, run in zip(owner, try_runs(store, list(owner)), strict=True):
        if isinstance(run, Run):
            owner[run_id].runs.append(run)
            if run.result is not None:
                over[run_id] = None
        else:
            owner[run_id].is_open = True
    with ThreadPoolExecutor(len(layout.TABLES), "log") as pool:
        looks = pool.map(partial(_look_at, scope), layout.TABLES)
        logs = dict(zip(layout.TABLES, looks, strict=True))
    # An older run's rows count as committed if a later run's are; its entries may be lost alone.
    newest = [date.runs[-1].run_id for date in found.values() if date.runs]
    asked = {table: [run_id for run_id in newest if run_id in over] for table in layout.TABLES}
    asked[layout.QUARANTINE] = list(over)
    lists = load_many_files(store, [(r, table) for table, ids in asked.items() for r in ids])
    for table, each in logs.items():
        live = {file.key for file in each.live}
        for run_id in lost_runs(store, table, asked[table], lists, live):
            owner[run_id].is_open = True
        for file in each.live:
            if file.engine == engine and file.date in found:
                found[file.date].files.setdefault(table, []).append(file)
        for date in each.dates_left_over & found.keys():
            found[date].is_open = True
    return found


@dataclass(frozen=True, slots=True)
class _Table:
    """What a table has of an engine."""

    live: Sequence[LiveFile]
    dates_left_over: frozenset[str]
    """Dates with files that the log does not list: opening the date may delete them."""


def _look_at(scope: Scope, table: str) -> _Table:
    live = all_live_files(scope.store, table)
    keys = {file.key for file in live}
    places = (
        _PLACE.match(item.key)
        for item in scope.store.list_objects(f"{table}/engine={scope.engine_name}/")
        if item.key not in keys
    )
    return _Table(live, frozenset(place["date"] for place in places if place))


def _result_of(scope: DateScope, date: _Date) -> RunResult | None:
    """List a date; None if something is new, or it cannot be read."""
    try:
        return _compare(scope, date.files)
    except SteelBatchError as error:
        log.info("date %s is opened: %s", scope.date, error)
        return None


def _compare(scope: DateScope, files: Mapping[str, Sequence[LiveFile]]) -> RunResult | None:
    started = time.monotonic()
    rows: dict[str, str] = {}
    entries: dict[str, tuple[str, str]] = {}
    for key, etag, code in known_in(scope.store, files):
        if _FORMER.search(key):
            return None
        if code is None:
            rows[key] = etag
        else:
            entries[key] = (etag, code)
    config, source = scope.config, scope.source
    images = source.select(scope.date)
    dated = ImagesByDate(images, config.images, config.key_pattern, scope.date)
    num_committed = num_changed = 0
    for ref in dated:
        row, entry = rows.get(ref.image_key), entries.get(ref.image_key)
        if row is None:
            if entry is None or entry[0] != ref.etag:
                return None
            if source.is_seen and entry[1] in OF_A_MOMENT:
                return None
        if row in (None, ref.etag):
            num_committed += 1
        elif ref.etag is None or config.rescore_changed:
            return None
        else:
            num_changed += 1
    if not num_committed + num_changed:
        return None
    if dated.warning is not None:
        log.warning("%s", dated.warning)
    return nothing_new(
        scope,
        seconds=time.monotonic() - started,
        num_committed=num_committed,
        num_changed=num_changed,
        num_left_out=images.num_left_out,
        example_left_out=images.example_left_out,
    )
