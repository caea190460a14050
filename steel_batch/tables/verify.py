"""Checks that everything committed still exists, intact and exactly once.

Every file listed in a table's log is compared with the record that its run left: existence, size,
digest and rows. Files that no log lists are reported, and so are images with two rows, and runs
whose numbers do not add up: planned = predicted + quarantined.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from deltalake import DeltaTable

from steel_batch import interrupt, layout
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.runs.record import Run, list_runs, read_runs
from steel_batch.tables.committed import WHOLE_BYTES
from steel_batch.tables.content_checks import ContentProblems, Contents, Place, check_contents
from steel_batch.tables.evolution import partly_bounded_files
from steel_batch.tables.file_checks import (
    DAMAGED,
    FileChecks,
    Problem,
    by_partition,
    check_log,
    foreign_files,
    read_small_files,
    run_of,
)
from steel_batch.tables.file_lists import RunLists, load_many_files
from steel_batch.tables.run_checks import check_counts, check_transactions
from steel_batch.tables.table_log import (
    LiveFile,
    all_live_files,
    files_of,
    open_table,
    query_log,
)

__all__ = ["Problem", "Verification", "run_of", "verify"]

AT_ONCE: Final = (500_000, 256, 128 << 20)
"""How many rows, files, and bytes of small files are checked together. A date that exceeds one of
these is checked by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """What the log of a table states."""

    gaps: list[Problem]
    """Missing entries: nothing else is known."""
    live: list[LiveFile]
    num_hiding: int


@dataclass(slots=True)
class _Problems:
    """Everything found, by what was checked."""

    files: dict[str, list[Problem]] = field(
        default_factory=lambda: {table: [] for table in layout.TABLES}
    )
    duplicates: dict[str, list[Problem]] = field(
        default_factory=lambda: {table: [] for table in layout.TABLES}
    )
    runs: list[Problem] = field(default_factory=list)
    summaries: list[Problem] = field(default_factory=list)
    quarantine: list[Problem] = field(default_factory=list)

    def add(self, found: ContentProblems) -> None:
        for table, problems in found.duplicates.items():
            self.duplicates[table] += problems
        self.summaries += found.summaries
        self.quarantine += found.quarantine

    def __iter__(self) -> Iterator[Problem]:
        for table in layout.TABLES:
            yield from self.files[table]
            yield from self.duplicates[table]
        yield from self.runs
        yield from self.summaries
        yield from self.quarantine


@dataclass(slots=True, kw_only=True)
class Verification:
    """The check of a store: iterate it once for problems; the counts are complete afterwards."""

    store: Lake
    engine: str | None
    date: str | None
    num_runs: int = 0
    """Finished runs whose numbers were compared."""
    num_files: int = 0
    """Committed files of the three tables."""
    num_rows: int = 0
    """Rows of these files according to the logs."""
    num_hiding: int = 0
    """Files whose bounds in the log make some readers miss rows (`tables.statistics`). The files
    are intact, so this is not a problem of the store; `steel-batch upgrade` corrects the log."""
    _seen: frozenset[str] = frozenset()
    """Runs that were listed before the logs were read."""

    def __iter__(self) -> Iterator[Problem]:
        """Yield every problem.

        Raises:
            ConfigError: The date is invalid, or nothing is committed for the engine or date.
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
        # Runs before logs: what a finished run committed is in a log that is read later. Of a run
        # that commits meanwhile, the logs may contain a part.
        over, busy, unplanned = self._read_runs()
        logs = self._read_logs()
        begun = [*unplanned, *(run_id for run_id in self._run_ids() if run_id not in self._seen)]
        busy |= {_place_of(run.run_id) for run in read_runs(store, begun) if run.record is not None}

        found = _Problems()
        readable = {table: log.live for table, log in logs.items() if not log.gaps}
        lists = _read_lists(store, over, readable)
        checks = {table: FileChecks(store, table, lists) for table in readable}
        for files in _batches(readable):
            interrupt.check()
            self._check_batch(files, checks, busy, found)
        live = {table: {file.key for file in files} for table, files in readable.items()}
        for table, log in logs.items():
            found.files[table] += log.gaps or foreign_files(store, table, live[table], engine, date)
        found.runs += check_counts(over, lists)
        found.runs += check_transactions(store, over, lists, live)
        yield from found

    def _check_batch(
        self,
        files: Mapping[str, Sequence[LiveFile]],
        checks: Mapping[str, FileChecks],
        busy: Collection[Place],
        found: _Problems,
    ) -> None:
        """Check the files of some engines and dates, by table, and their rows."""
        small = read_small_files(self.store, [file for each in files.values() for file in each])
        damaged: set[Place] = set()
        sound: dict[str, list[LiveFile]] = {table: [] for table in layout.TABLES}
        for table, each in files.items():
            for file in each:
                problems = list(checks[table].check(file, small.get(file.key)))
                found.files[table] += problems
                if problems:
                    damaged.add((file.engine, file.date))
                if not any(problem.kind in DAMAGED for problem in problems):
                    sound[table].append(file)
        places = sorted({(file.engine, file.date) for each in files.values() for file in each})
        # Nothing can be concluded without one of the logs.
        skipped = busy if len(files) == len(layout.TABLES) else places
        contents = Contents(
            places=places, files=sound, small=small, damaged=damaged, skipped=skipped
        )
        found.add(check_contents(self.store, contents))

    def _run_ids(self) -> list[str]:
        """The runs of the engine and date that are checked."""
        ids = []
        for run_id in list_runs(self.store, self.date or ""):
            engine, date = _place_of(run_id)
            if self.engine in (None, engine) and self.date in (None, date):
                ids.append(run_id)
        return ids

    def _read_runs(self) -> tuple[list[Run], set[Place], list[str]]:
        """Finished runs; the places whose last run is unfinished; and runs without a record."""
        ids = self._run_ids()
        self._seen = frozenset(ids)
        over: list[Run] = []
        busy: set[Place] = set()
        unplanned = []
        for run in read_runs(self.store, ids):
            if run.record is None:
                unplanned.append(run.run_id)
            elif run.result is None:
                busy.add(_place_of(run.run_id))
            else:
                busy.discard(_place_of(run.run_id))
                over.append(run)
        self.num_runs = len(over)
        return over, busy, unplanned

    def _read_logs(self) -> dict[str, _Log]:
        """What the tables' logs contain of the engine and date that are checked."""
        with ThreadPoolExecutor(len(layout.TABLES), "log") as pool:
            found = pool.map(self._read_log, layout.TABLES)
            logs = dict(zip(layout.TABLES, found, strict=True))
        for log in logs.values():
            self.num_files += len(log.live)
            self.num_rows += sum(file.num_rows for file in log.live)
            self.num_hiding += log.num_hiding
        return logs

    def _read_log(self, table: str) -> _Log:
        def look(opened: DeltaTable) -> _Log:
            live = [
                file
                for file in files_of(opened, table)
                if self.engine in (None, file.engine) and self.date in (None, file.date)
            ]
            return _Log(
                gaps=[],
                live=live,
                num_hiding=partly_bounded_files(opened).num_rows if live else 0,
            )

        gaps = list(check_log(self.store, table))
        nothing = _Log(gaps=gaps, live=[], num_hiding=0)
        return nothing if gaps else query_log(self.store, table, look) or nothing

    def _check_place(self) -> None:
        """Refuse a mistyped store, engine or date, which would pass every check."""
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
            known = f": it has dates from {dates[0]} to {dates[-1]}" if dates else ""
            of = f" and engine {self.engine}" if self.engine is not None else ""
            raise ConfigError(
                f"nothing is committed for the date {self.date}{of} in {self.store.url}{known}."
            )


def _place_of(run_id: str) -> Place:
    return layout.split_run_id(run_id)[:2]


def _read_lists(
    store: Lake, runs: Sequence[Run], live: Mapping[str, Sequence[LiveFile]]
) -> RunLists:
    """What finished runs, and the runs of some files, recorded of their files."""
    tables = (layout.MERGED, layout.PREDICTIONS, layout.QUARANTINE)
    wanted = {(run.run_id, table) for run in runs for table in tables}
    for table, files in live.items():
        wanted |= {(run, table) for run in (run_of(file.key) for file in files) if run is not None}
    return load_many_files(store, wanted)


def _batches(live: Mapping[str, Sequence[LiveFile]]) -> Iterator[dict[str, list[LiveFile]]]:
    """Divide files, by table, into those of few engines and dates, which are checked together."""
    by_place = {table: by_partition(files) for table, files in live.items()}
    batch: dict[str, list[LiveFile]] = {table: [] for table in live}
    sizes = [0, 0, 0]
    for place in sorted({place for of in by_place.values() for place in of}):
        files = [file for of in by_place.values() for file in of.get(place, ())]
        its_sizes = [
            sum(file.num_rows for file in files),
            len(files),
            sum(file.size_bytes for file in files if file.size_bytes <= WHOLE_BYTES),
        ]
        new_sizes = [size + more for size, more in zip(sizes, its_sizes, strict=True)]
        if sizes[1] and any(size > most for size, most in zip(new_sizes, AT_ONCE, strict=True)):
            yield batch
            batch, new_sizes = {table: [] for table in live}, its_sizes
        sizes = new_sizes
        for table, of in by_place.items():
            batch[table] += of.get(place, ())
    if sizes[1]:
        yield batch


def verify(store: Lake, *, engine: str | None = None, date: str | None = None) -> Verification:
    """Check a store, or one engine or date of it; iterate the result for its problems.

    Reads every committed byte once. A run in progress is not disturbed; files that it has published
    but not committed yet are reported as foreign.
    """
    return Verification(store=store, engine=engine, date=date)
