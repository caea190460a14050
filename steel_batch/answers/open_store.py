"""A store that is open for queries: its views in DuckDB, each built when a query names it."""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

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
from steel_batch.answers.moment import (
    Moment,
    find_moment,
    landed_by,
    open_version,
    quarantine_files,
)
from steel_batch.answers.past_runs import created_at, read_all_runs, table_of_runs
from steel_batch.answers.pixel_size import PixelSizes
from steel_batch.answers.relation import Relation
from steel_batch.database import connect, interruptible
from steel_batch.errors import ConfigError, LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.runs.record import Run
from steel_batch.tables.query import confine, is_unreadable, open_dataset
from steel_batch.tables.summary import summary_sql
from steel_batch.tables.table_log import LiveFile, files_of, open_table

_WORD: Final = re.compile(r"\w+")
_LOOKS_ROUND: Final = frozenset(
    ("show", "describe", "pragma", "query", "query_table", "information_schema", "duckdb_views",
     "duckdb_tables", "duckdb_columns", "duckdb_comments")
)  # fmt: skip
"""Words of queries that list views without naming them."""
_CLASSES: Final = "internal.classes"
_ROWS: Final = [duckdb.ExpectedResultType.QUERY_RESULT]
_PIVOT: Final = duckdb.StatementType.MULTI
NO_ROWS: Final = (
    "the query cannot be answered: it returns no rows. Use SELECT to read the tables; this command "
    "cannot change them."
)


class OpenStore:
    """The views of a store, now or at an earlier moment.

    A view is built when a query first names it, and does not change afterwards. Nothing is
    downloaded, and queries read and write no files except the store's.

    Args:
        store: The store.
        as_of: A version of `predictions`, or a time; see `moment.find_moment`.
        pixel_sizes: The size of a pixel, for the columns in millimetres.
        is_unsafe: Let SQL read and write everything that this user can.
    """

    def __init__(
        self,
        store: Lake,
        *,
        as_of: str | None = None,
        pixel_sizes: PixelSizes | None = None,
        is_unsafe: bool = False,
    ) -> None:
        self._store = store
        self._sizes = pixel_sizes or PixelSizes({})
        self._moment: Moment | None = None if as_of is None else find_moment(store, as_of)
        self._made: set[str] = set()
        self._opened: dict[str, DeltaTable] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="steel-batch-")
        self._con = connect()
        self._con.execute("SET temp_directory = ?", [self._scratch.name])
        self._con.execute("SET TimeZone = 'UTC'")
        self._con.execute("CREATE SCHEMA internal")
        if not is_unsafe:
            confine(self._con)

    def __enter__(self) -> OpenStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the session; its relations can no longer be read."""
        self._con.close()
        self._scratch.cleanup()

    @property
    def moment(self) -> Moment | None:
        """The version being queried; None for the newest."""
        return self._moment

    def sql(self, sql: str) -> Relation:
        """Run a query.

        Args:
            sql: One or several statements, in DuckDB's dialect, over `views.VIEWS`.

        Returns:
            The rows of the last statement, read on demand: ``.to_arrow_table()``, ``.df()`` for
            pandas, ``.pl()`` for Polars, and all else that DuckDB's relations have.

        Raises:
            ConfigError: The SQL is wrong, or returns no rows; the message is DuckDB's.
            LakeError: The store does not have the table yet, or its files cannot be read.
        """
        found = list(self.answers(sql))
        if not found:
            raise ConfigError(NO_ROWS)
        return found[-1]

    def answers(self, sql: str) -> Iterator[Relation]:
        """Run statements one by one; yield the rows of each that returns some.

        Raises:
            ConfigError: The SQL is wrong.
            LakeError: See `sql`.
        """
        with self.answering():
            statements = duckdb.extract_statements(sql)
        for statement in statements:
            self.prepare(statement.query)
            with self.answering():
                found = self._con.sql(statement.query)
            if statement.expected_result_type == _ROWS or statement.type == _PIVOT:
                yield Relation(found, self.answering)

    def run(self, sql: str, *, names: str = "") -> None:
        """Run a statement that returns no rows.

        Args:
            sql: The statement.
            names: A text that names the views to build first.

        Raises:
            ConfigError: The SQL is wrong.
        """
        if names:
            self.prepare(names)
        with self.answering():
            self._con.execute(sql)

    def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the few rows of a query over views that exist already."""
        with self.answering():
            found: list[tuple[Any, ...]] = self._con.execute(sql).fetchall()
        return found

    def classes(self, engine: str) -> dict[int, str]:
        """Return the names of an engine's classes, by number from 1."""
        self._classes()
        sql = f"SELECT class_id, class_name FROM {_CLASSES} WHERE engine = ? ORDER BY 1"  # noqa: S608 - ours
        return dict(self._con.execute(sql, [engine]).fetchall())

    def view(self, name: str) -> Relation:
        """Return the rows of one of `views.VIEWS`; see `sql`.

        Raises:
            ConfigError: There is no such view.
            LakeError: The table has no rows yet.
        """
        if name not in views.VIEWS:
            raise ConfigError(f"unknown view {name!r}: expected one of: {', '.join(views.VIEWS)}.")
        self._make(name)
        return Relation(self._con.view(name), self.answering)

    def prepare(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Build the views that a text names; returns the connection that has them."""
        words = {word.lower() for word in _WORD.findall(sql)}
        named = [name for name in views.VIEWS if name in words]
        for name in views.VIEWS if words & _LOOKS_ROUND or not named else named:
            self._make(name)
        return self._con

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Turn DuckDB's errors in the block into ours; a signal interrupts the query.

        Raises:
            ConfigError: The SQL is wrong.
            LakeError: A file cannot be read.
            Interrupted: A signal requested a stop.
        """
        try:
            with interruptible(self._con):
                yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if not is_unreadable(error):
                raise ConfigError(f"the query cannot be answered: {error}") from error
            if self._moment is not None:
                raise LakeError(
                    f"version {self._moment.version} of the predictions is no longer complete: a "
                    "later run scored some of its images again and deleted the replaced files "
                    f"({paragraph_of(error)}). Query other dates or a later version."
                ) from error
            raise LakeError(
                f"a committed file cannot be read: {paragraph_of(error)}. To list all such files: "
                f"`steel-batch verify --store {self._store.url}`. Restore them from a backup."
            ) from error

    def _make(self, name: str) -> None:
        if name in self._made:
            return
        for other in views.VIEWS[name].needs:
            self._make(other)
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

    def _comment(self, name: str) -> None:
        """Describe a view and its columns in DuckDB, for `duckdb_columns()` and other tools."""
        there = {row[0] for row in self._con.execute(f"DESCRIBE {name}").fetchall()}
        for column, meant in COLUMNS[name].items():
            if column in there:
                text = meant.meaning + (f" ({meant.unit})" if meant.unit else "")
                quoted = text.replace("'", "''")
                self._con.execute(f"COMMENT ON COLUMN {name}.{column} IS '{quoted}'")

    def _open(self, table: str) -> DeltaTable:
        if table not in self._opened:
            is_versioned = self._moment is not None and table == layout.PREDICTIONS
            version = self._moment.version if self._moment is not None and is_versioned else None
            self._opened[table] = open_version(self._store, table, version)
        return self._opened[table]

    def _register(self, name: str, table: str, files: list[LiveFile] | None = None) -> None:
        opened, scratch = self._open(table), Path(self._scratch.name)
        self._con.register(name, open_dataset(self._store, table, opened, scratch, files=files))

    def _make_predictions(self) -> None:
        self._register(views.STORED, layout.PREDICTIONS)
        self._create(layout.PREDICTIONS, views.predictions_sql(self._sizes))

    def _make_summaries(self) -> None:
        name = layout.CLASS_SUMMARIES
        if self._moment is None:
            self._register(name, name)
            return
        self._make(layout.PREDICTIONS)
        self._classes()
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
        names = f"JOIN {_CLASSES} USING (engine)"
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
        self._classes()
        self._create(views.DEFECTS, views.defects_sql(self._sizes))

    def _make_peaks(self) -> None:
        self._classes()
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

    def _classes(self) -> None:
        if _CLASSES in self._made:
            return
        # Also for an earlier moment: the names of an engine's classes never change.
        summaries = files_of(
            open_table(self._store, layout.CLASS_SUMMARIES), layout.CLASS_SUMMARIES
        )
        self._load(_CLASSES, table_of_classes(self._store, self._known, summaries))
        self._made.add(_CLASSES)

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
