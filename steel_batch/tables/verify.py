"""Checks that everything committed still exists, intact and exactly once.

Every file listed in a table's log is compared with the record that its run left: existence, size,
digest and rows. Files that no log lists are reported, and so are images with two rows, and runs
whose numbers do not add up: planned = predicted + quarantined.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from steel_batch import layout
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.runs.record import Run, list_runs, read_run
from steel_batch.tables.file_checks import (
    DAMAGED,
    FileChecks,
    Problem,
    check_log,
    duplicate_images,
    foreign_files,
    run_of,
)
from steel_batch.tables.run_checks import (
    check_counts,
    check_quarantine,
    check_summaries,
    check_transactions,
)
from steel_batch.tables.table_log import LiveFile, all_live_files, open_table
from steel_batch.tables.upgrade import count_hiding_files

__all__ = ["Problem", "Verification", "run_of", "verify"]


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
        sound: dict[str, list[LiveFile]] = {}
        damaged: set[tuple[str, str]] = set()
        unreadable = set()
        for table in layout.TABLES:
            gaps = list(check_log(store, table))
            if gaps:
                yield from gaps
                unreadable.add(table)
                continue
            live = [
                file
                for file in all_live_files(store, table)
                if engine in (None, file.engine) and date in (None, file.date)
            ]
            self.num_files += len(live)
            self.num_rows += sum(file.num_rows for file in live)
            self.num_hiding += count_hiding_files(store, table) if live else 0
            checks, sound[table] = FileChecks(store, table, live), []
            for file in live:
                problems = list(checks.check(file))
                yield from problems
                if problems:
                    damaged.add((file.engine, file.date))
                if not any(problem.kind in DAMAGED for problem in problems):
                    sound[table].append(file)
            yield from foreign_files(store, table, {file.key for file in live}, engine, date)
            if table != layout.CLASS_SUMMARIES:
                for (its_engine, its_date), problem in duplicate_images(store, table, sound[table]):
                    damaged.add((its_engine, its_date))
                    yield problem
        over, busy = yield from self._check_runs()
        yield from check_transactions(store, over, unreadable)
        if not unreadable:
            # Of a date with damaged files, or a run about to commit, nothing can be concluded.
            rows, summaries, entries = (
                [f for f in sound[table] if (f.engine, f.date) not in damaged | busy]
                for table in layout.TABLES
            )
            yield from check_summaries(store, rows, summaries)
            yield from check_quarantine(store, rows, entries)

    def _check_runs(
        self,
    ) -> Generator[Problem, None, tuple[list[Run], set[tuple[str, str]]]]:
        """Finished runs, and the engines and dates with an unfinished one."""
        over, busy = [], set()
        for run_id in list_runs(self.store):
            engine, date, _ = layout.split_run_id(run_id)
            if self.engine not in (None, engine) or self.date not in (None, date):
                continue
            run = read_run(self.store, run_id)
            if run.record is None:
                continue
            if run.result is None:
                busy.add((engine, date))
                continue
            busy.discard((engine, date))
            over.append(run)
            self.num_runs += 1
            yield from check_counts(self.store, run_id, run.record, run.result)
        return over, busy

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


def verify(store: Lake, *, engine: str | None = None, date: str | None = None) -> Verification:
    """Check a store, or one engine or date of it; iterate the result for its problems.

    Reads every committed byte once. A run in progress is not disturbed; files that it has published
    but not committed yet are reported as foreign.
    """
    return Verification(store=store, engine=engine, date=date)
