"""Builds the views of a store in a DuckDB connection, each when it is first needed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.answers import views
from steel_batch.answers.columns import COLUMNS
from steel_batch.answers.current import table_of_current
from steel_batch.answers.known_engines import (
    Known,
    read_known,
    table_of_classes,
    table_of_engines,
)
from steel_batch.answers.moment import Moment, landed_by, open_version, quarantine_files
from steel_batch.answers.past_runs import created_at, read_all_runs, table_of_runs
from steel_batch.answers.pixel_size import PixelSizes
from steel_batch.lake import Lake
from steel_batch.runs.record import Run
from steel_batch.tables.query import open_dataset
from steel_batch.tables.summary import summary_sql
from steel_batch.tables.table_log import LiveFile, files_of, open_table

CLASS_NAMES: Final = "internal.classes"
"""The table of each engine's classes, which `StoreViews.make_classes` builds."""


class StoreViews:
    """The views of a store in one connection, now or at an earlier moment.

    What is read for one view serves the others. A view does not change once it is built.

    Args:
        store: The store.
        con: The connection; a schema ``internal`` is created there.
        scratch: A folder for files of the session.
        moment: The moment; None for now.
        pixel_sizes: The size of a pixel, for the columns in millimetres.
    """

    def __init__(
        self,
        store: Lake,
        con: duckdb.DuckDBPyConnection,
        scratch: Path,
        *,
        moment: Moment | None,
        pixel_sizes: PixelSizes,
    ) -> None:
        self._store = store
        self._con = con
        self._scratch = scratch
        self._moment = moment
        self._sizes = pixel_sizes
        self._made: set[str] = set()
        self._opened: dict[str, DeltaTable] = {}
        con.execute("CREATE SCHEMA internal")

    def make(self, name: str) -> None:
        """Build one of `views.VIEWS`, and those that it is built from.

        Raises:
            LakeError: The table has no rows yet, or a record cannot be read.
        """
        if name in self._made:
            return
        for other in views.VIEWS[name].needs:
            self.make(other)
        make = {
            layout.PREDICTIONS: self._make_predictions,
            layout.CLASS_SUMMARIES: self._make_summaries,
            layout.QUARANTINE: self._make_quarantine,
            views.DEFECTS: self._make_defects,
            views.PEAKS: self._make_peaks,
            views.LINE_SUMMARIES: self._make_line_summaries,
            views.RUNS: self._make_runs,
            views.ENGINES: self._make_engines,
            views.CURRENT: self._make_current,
        }[name]
        make()
        self._comment(name)
        self._made.add(name)

    def make_classes(self) -> None:
        """Build the table `CLASS_NAMES`."""
        if CLASS_NAMES in self._made:
            return
        # Also for an earlier moment: the names of an engine's classes never change.
        summaries = files_of(
            open_table(self._store, layout.CLASS_SUMMARIES), layout.CLASS_SUMMARIES
        )
        self._load(CLASS_NAMES, table_of_classes(self._store, self._known, summaries))
        self._made.add(CLASS_NAMES)

    def _comment(self, name: str) -> None:
        """Describe a view and its columns in DuckDB, for `duckdb_columns()` and other tools."""
        there = {row[0] for row in self._con.execute(f"DESCRIBE {name}").fetchall()}
        comments = []
        for column, meant in COLUMNS[name].items():
            if column in there:
                text = meant.meaning + (f" ({meant.unit})" if meant.unit else "")
                quoted = text.replace("'", "''")
                comments.append(f"COMMENT ON COLUMN {name}.{column} IS '{quoted}'")
        self._con.execute(";".join(comments))

    def _open(self, table: str) -> DeltaTable:
        if table not in self._opened:
            is_versioned = self._moment is not None and table == layout.PREDICTIONS
            version = self._moment.version if self._moment is not None and is_versioned else None
            self._opened[table] = open_version(self._store, table, version)
        return self._opened[table]

    def _register(self, name: str, table: str, files: list[LiveFile] | None = None) -> None:
        opened = self._open(table)
        dataset = open_dataset(self._store, table, opened, self._scratch, files=files)
        self._con.register(name, dataset)

    def _make_predictions(self) -> None:
        self._register(views.STORED, layout.PREDICTIONS)
        self._create(layout.PREDICTIONS, views.predictions_sql(self._sizes))

    def _make_summaries(self) -> None:
        name = layout.CLASS_SUMMARIES
        if self._moment is None:
            self._register(name, name)
            return
        self.make(layout.PREDICTIONS)
        self.make_classes()
        newest = {layout.split_run_id(run.run_id)[:2]: run.run_id for run in self._landed}
        runs = [
            {"engine": engine, "date": date, "run_id": run_id}
            for (engine, date), run_id in newest.items()
        ]
        of_runs = pa.schema([(column, pa.string()) for column in ("engine", "date", "run_id")])
        self._load("internal.newest", pa.Table.from_pylist(runs, schema=of_runs))
        run_id = (
            "(SELECT any_value(n.run_id) FROM internal.newest n "
            "WHERE n.engine = c.engine AND n.date::DATE = c.date)"
        )
        names = f"JOIN {CLASS_NAMES} USING (engine)"
        keys = ["engine", "date", "line"]
        self._create(name, summary_sql(keys, names=names, run_id=run_id))

    def _make_quarantine(self) -> None:
        name = layout.QUARANTINE
        if self._moment is None:
            self._register(name, name)
            return
        predictions = self._open(layout.PREDICTIONS)
        self._opened[name], files = quarantine_files(
            self._store, lambda run_id: bool(landed_by(self._store, predictions, [run_id]))
        )
        self._register(name, name, files)

    def _make_defects(self) -> None:
        self.make_classes()
        self._create(views.DEFECTS, views.defects_sql(self._sizes))

    def _make_peaks(self) -> None:
        self.make_classes()
        self._create(views.PEAKS, views.PEAKS_SQL)

    def _make_line_summaries(self) -> None:
        self._create(views.LINE_SUMMARIES, views.LINE_SUMMARIES_SQL)

    def _make_runs(self) -> None:
        runs = self._runs
        if self._moment is not None:
            landed, at = {run.run_id for run in self._landed}, self._moment.at
            runs = [
                Run(
                    run_id=run.run_id,
                    record=run.record,
                    result=run.result if run.run_id in landed else None,
                    is_newest=run.is_newest,
                )
                for run in runs
                if run.run_id in landed or ((began := created_at(run)) is not None and began <= at)
            ]
        is_past = self._moment is not None
        self._con.register(views.RUNS, table_of_runs(self._store, runs, is_past=is_past))

    def _make_engines(self) -> None:
        scored = {engine for engine, _ in self._places}
        self._con.register(views.ENGINES, table_of_engines(self._known, sorted(scored)))

    def _make_current(self) -> None:
        found = table_of_current(self._places, self._landed, self._known)
        self._con.register(views.CURRENT, found)

    def _create(self, name: str, sql: str) -> None:
        self._con.execute(f"CREATE VIEW {name} AS {sql}")

    def _load(self, name: str, rows: pa.Table) -> None:
        self._con.register("loading", rows)
        self._con.execute(f"CREATE TABLE {name} AS FROM loading")
        self._con.unregister("loading")

    @functools.cached_property
    def _known(self) -> Known:
        return read_known(self._store, until=None if self._moment is None else self._moment.at)

    @functools.cached_property
    def _runs(self) -> list[Run]:
        return read_all_runs(self._store)

    @functools.cached_property
    def _landed(self) -> list[Run]:
        """Return the runs whose rows are in the version being queried."""
        if self._moment is None:
            return [run for run in self._runs if run.result is not None]
        run_ids = [run.run_id for run in self._runs]
        landed = landed_by(self._store, self._open(layout.PREDICTIONS), run_ids)
        return [run for run in self._runs if run.run_id in landed]

    @functools.cached_property
    def _places(self) -> list[tuple[str, str]]:
        """Return every engine and date that has rows."""
        opened = self._open(layout.PREDICTIONS)
        return sorted({(f.engine, f.date) for f in files_of(opened, layout.PREDICTIONS)})
