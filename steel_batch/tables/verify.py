"""Is everything that was committed still there, whole, and once?

Every file that a table's log names is compared with the record that its run left of it: there, as
long, with the same digest and rows. Files that no log names are reported, and so are images with
two rows, and runs whose numbers do not add up: planned = predicted + quarantined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from steel_batch import interrupt, layout
from steel_batch.database import scratch_database
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.runs.record import RunRecord, RunResult, list_runs, read_run
from steel_batch.tables.commit import LiveFile, all_live_files, open_table, read_file
from steel_batch.tables.merge import DataFile, load_files
from steel_batch.tables.upgrade import count_hiding_files

BLOCK_BYTES = 8 << 20
_KEY = pa.schema([("image_key", pa.string())])
DAMAGED = ("missing", "truncated", "changed")
"""Kinds of problems of files whose rows are not looked at any further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    """``missing``, ``truncated``, ``changed``, ``foreign``, ``duplicate``, ``unrecorded`` or
    ``miscounted``."""
    key: str
    message: str


@dataclass(slots=True, kw_only=True)
class Verification:
    """The check of a store: iterate it once for what is wrong, then the counts are complete."""

    store: Lake
    engine: str | None
    date: str | None
    num_runs: int = 0
    """Runs that are over, whose numbers were compared."""
    num_files: int = 0
    """Committed files of the three tables."""
    num_rows: int = 0
    """What the logs say that these files hold."""
    num_hiding: int = 0
    """Files whose bounds in the log make some readers miss rows (`tables.statistics`). They are
    whole, so this is no problem of the store's; `steel-batch upgrade` corrects the log."""

    def __iter__(self) -> Iterator[Problem]:
        """Yield every problem.

        Raises:
            ConfigError: The date is none, or nothing is committed for the engine or date.
            LakeError: There are no tables.
        """
        if self.date is not None:
            check_date(self.date)
        num_problems = 0
        for problem in self._problems():
            num_problems += 1
            yield problem
        if not num_problems + self.num_files:
            self._check_place()

    def _problems(self) -> Iterator[Problem]:
        store, engine, date = self.store, self.engine, self.date
        for table in layout.TABLES:
            live = [
                file
                for file in all_live_files(store, table)
                if engine in (None, file.engine) and date in (None, file.date)
            ]
            self.num_files += len(live)
            self.num_rows += sum(file.num_rows for file in live)
            self.num_hiding += count_hiding_files(store, table) if live else 0
            records = _records(store, table, live)
            unreadable = set()
            for file in live:
                for problem in _check_file(store, file, records.get(file.key)):
                    if problem.kind in DAMAGED:
                        unreadable.add(file.key)
                    yield problem
            yield from _foreign(store, table, {file.key for file in live}, engine, date)
            if table != layout.CLASS_SUMMARIES:
                yield from _duplicates(store, table, [f for f in live if f.key not in unreadable])
        yield from self._check_runs()

    def _check_runs(self) -> Iterator[Problem]:
        for run_id in list_runs(self.store):
            engine, date, _ = layout.split_run_id(run_id)
            if self.engine not in (None, engine) or self.date not in (None, date):
                continue
            run = read_run(self.store, run_id)
            if run.record is not None and run.result is not None:
                self.num_runs += 1
                yield from _check_run(self.store, run_id, run.record, run.result)

    def _check_place(self) -> None:
        """Refuse a store, engine or date that was mistyped: nothing is wrong with nothing."""
        open_table(self.store, layout.PREDICTIONS)
        live = all_live_files(self.store, layout.PREDICTIONS)
        engines = sorted({file.engine for file in live})
        if self.engine is not None and self.engine not in engines:
            example = f", for example {engines[0]}" if engines else ""
            raise ConfigError(
                f"nothing is committed for engine {self.engine!r}: expected <model>-<12 hex>"
                f"{example}."
            )
        if self.date is not None:
            dates = sorted({file.date for file in live if self.engine in (None, file.engine)})
            known = f": its dates reach from {dates[0]} to {dates[-1]}" if dates else ""
            of = f" and engine {self.engine}" if self.engine is not None else ""
            raise ConfigError(
                f"nothing is committed for the date {self.date}{of} in {self.store.url}{known}."
            )


def verify(store: Lake, *, engine: str | None = None, date: str | None = None) -> Verification:
    """Check a store, or one engine or date of it; iterating the answer yields what is wrong.

    Reads every committed byte once. A run that goes on meanwhile is not disturbed; files that it
    has published and not committed yet look foreign.
    """
    return Verification(store=store, engine=engine, date=date)


def _records(store: Lake, table: str, live: list[LiveFile]) -> dict[str, DataFile]:
    """What the runs that wrote these files noted of them, by key."""
    runs = {run_of(file.key) for file in live} - {None}
    found: dict[str, DataFile] = {}
    for run in sorted(str(run) for run in runs):
        for record in load_files(store, run, table) or ():
            found[record.target] = record
    return found


def run_of(key: str) -> str | None:
    """The run that wrote a table's file, from its name."""
    name = key.rpartition("/")[2]
    run = name.removeprefix("part-").removesuffix(".parquet").rpartition("-")[0]
    try:
        layout.split_run_id(run)
    except ConfigError:
        return None
    return run


def _check_file(store: Lake, file: LiveFile, record: DataFile | None) -> Iterator[Problem]:
    found = store.stat(file.key)
    if found is None:
        yield Problem(kind="missing", key=file.key, message="the log names it and it is not there")
        return
    if found.size_bytes != file.bytes:
        yield Problem(
            kind="truncated",
            key=file.key,
            message=f"it has {found.size_bytes} bytes, the log says {file.bytes}",
        )
        return
    if record is None:
        yield Problem(kind="unrecorded", key=file.key, message="no run has a record of its digest")
        return
    digest = hashlib.sha256()
    with store.open_input(file.key) as stream:
        while block := stream.read(BLOCK_BYTES):
            interrupt.check()
            digest.update(block)
    if digest.hexdigest() != record.sha256:
        yield Problem(
            kind="changed",
            key=file.key,
            message=f"its SHA-256 is {digest.hexdigest()[:12]}…, it was {record.sha256[:12]}…",
        )
    elif file.num_rows != record.num_rows:
        yield Problem(
            kind="miscounted",
            key=file.key,
            message=f"the log says {file.num_rows} rows, its run wrote {record.num_rows}",
        )


def _foreign(
    store: Lake, table: str, live: set[str], engine: str | None, date: str | None
) -> Iterator[Problem]:
    prefix = f"{table}/engine={engine}/" if engine else f"{table}/engine="
    for item in store.list_objects(prefix):
        if item.key not in live and (date is None or f"/date={date}/" in item.key):
            yield Problem(
                kind="foreign",
                key=item.key,
                message="it lies in a partition and no log names it: readers of the plain files "
                "see it",
            )


def _duplicates(store: Lake, table: str, live: list[LiveFile]) -> Iterator[Problem]:
    """Images with more than one row in a partition."""
    partitions = sorted({(file.engine, file.date) for file in live})
    for engine, date in partitions:
        files = [f for f in live if (f.engine, f.date) == (engine, date)]

        def keys(files: list[LiveFile] = files) -> Iterator[pa.RecordBatch]:
            for file in files:
                try:
                    yield from read_file(store, file.key, _KEY, kept=file.kept)
                except LakeError:
                    continue  # no run has a record of it, or it was changed since it was checked

        with scratch_database() as con:
            con.register("keys", pa.RecordBatchReader.from_batches(_KEY, keys()))
            num_twice, example = con.sql(
                "SELECT count(*), min(image_key) FROM "
                "(SELECT image_key FROM keys GROUP BY ALL HAVING count(*) > 1)"
            ).fetchall()[0]
        if num_twice:
            yield Problem(
                kind="duplicate",
                key=f"{table}/{layout.partition(engine, date)}",
                message=f"{num_twice} images have more than one row, for example {example}",
            )


def _check_run(store: Lake, run_id: str, record: RunRecord, result: RunResult) -> Iterator[Problem]:
    """Whether a run's numbers add up: planned = predicted + quarantined, as its files say too."""
    engine, date, _ = layout.split_run_id(run_id)
    planned, scored, quarantined = record.num_images, result.num_scored, result.num_quarantined
    merged = sum(file.num_rows for file in load_files(store, run_id, layout.MERGED) or ())
    # Its other files of the quarantine hold entries of earlier runs.
    own = layout.table_file(layout.QUARANTINE, engine, date, run_id, 0)
    entries = load_files(store, run_id, layout.QUARANTINE) or ()
    set_aside = sum(file.num_rows for file in entries if file.target == own)
    if planned != scored + quarantined or merged != scored or set_aside != quarantined:
        yield Problem(
            kind="miscounted",
            key=layout.run_file(run_id, "result.json"),
            message=f"planned {planned}, predicted {scored} ({merged} in files), "
            f"quarantined {quarantined} ({set_aside} in files)",
        )
