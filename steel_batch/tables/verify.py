"""Is everything that was committed still there, whole, and once?

Every file that a table's log names is compared with the record that its run left of it: there, as
long, with the same digest and rows. Files that no log names are reported, and so are images with
two rows, and runs whose numbers do not add up: planned = predicted + quarantined.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from steel_batch import layout
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.runs.record import Run, list_runs, read_run
from steel_batch.tables.commit import LiveFile, all_live_files, open_table
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
from steel_batch.tables.upgrade import count_hiding_files

__all__ = ["Problem", "Verification", "run_of", "verify"]


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
            # Of a date whose files are damaged, or whose run is about to commit, nothing follows.
            rows, summaries, entries = (
                [f for f in sound[table] if (f.engine, f.date) not in damaged | busy]
                for table in layout.TABLES
            )
            yield from check_summaries(store, rows, summaries)
            yield from check_quarantine(store, rows, entries)

    def _check_runs(
        self,
    ) -> Generator[Problem, None, tuple[list[Run], set[tuple[str, str]]]]:
        """Runs that are over, and the engines and dates where one is not."""
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
