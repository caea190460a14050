"""A store that is open for queries: a session of DuckDB, with views that `store_views` builds."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import duckdb
import pyarrow as pa

from steel_batch.answers import views
from steel_batch.answers.moment import Moment, find_moment
from steel_batch.answers.pixel_size import PixelSizes
from steel_batch.answers.relation import Relation
from steel_batch.answers.store_views import CLASS_NAMES, StoreViews
from steel_batch.database import connect, interruptible
from steel_batch.errors import ConfigError, LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.tables.query import confine, is_unreadable

_WORD: Final = re.compile(r"\w+")
_LOOKS_ROUND: Final = frozenset(
    ("show", "describe", "pragma", "query", "query_table", "information_schema", "duckdb_views",
     "duckdb_tables", "duckdb_columns", "duckdb_comments")
)  # fmt: skip
"""Words of queries that list views without naming them."""
_ROWS: Final = [duckdb.ExpectedResultType.QUERY_RESULT]
_PIVOT: Final = duckdb.StatementType.MULTI
_CHANGES: Final = (duckdb.StatementType.DROP, duckdb.StatementType.ALTER)
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
        self._moment: Moment | None = None if as_of is None else find_moment(store, as_of)
        self._scratch = tempfile.TemporaryDirectory(prefix="steel-batch-")
        self._con = connect()
        self._con.execute("SET temp_directory = ?", [self._scratch.name])
        self._con.execute("SET TimeZone = 'UTC'")
        if not is_unsafe:
            confine(self._con)
        self._views = StoreViews(
            store,
            self._con,
            Path(self._scratch.name),
            moment=self._moment,
            pixel_sizes=pixel_sizes or PixelSizes({}),
        )

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
    def url(self) -> str:
        """Where the store lies."""
        return self._store.url

    def command(self, *words: str) -> str:
        """A command on the store, for a message; see `lake.commands.command`."""
        return command(self._store, *words)

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
            self._refuse_changes(statement)
            self.prepare(statement.query)
            with self.answering():
                found = self._con.sql(statement.query)
            if statement.expected_result_type == _ROWS or statement.type == _PIVOT:
                yield Relation(found, self.answering)

    def _refuse_changes(self, statement: duckdb.Statement) -> None:
        """Refuse what would drop or alter a view of the store: later questions name it.

        Raises:
            ConfigError: It would.
        """
        if statement.type not in _CHANGES:
            return
        words = re.findall(r"\w+", statement.query.lower())
        if named := [view for view in views.VIEWS if view in words]:
            raise ConfigError(f"the view {named[0]} is of the store and cannot be changed here.")

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
        self._views.make_classes()
        sql = f"SELECT class_id, class_name FROM {CLASS_NAMES} WHERE engine = ? ORDER BY 1"  # noqa: S608 - ours
        return dict(self._con.execute(sql, [engine]).fetchall())

    def view(self, name: str) -> Relation:
        """Return the rows of one of `views.VIEWS`; see `sql`.

        Raises:
            ConfigError: There is no such view.
            LakeError: The table has no rows yet.
        """
        if name not in views.VIEWS:
            raise ConfigError(f"unknown view {name!r}: expected one of: {', '.join(views.VIEWS)}.")
        self._views.make(name)
        return Relation(self._con.view(name), self.answering)

    def prepare(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Build the views that a text names; returns the connection that has them."""
        words = {word.lower() for word in _WORD.findall(sql)}
        named = [name for name in views.VIEWS if name in words]
        for name in views.VIEWS if words & _LOOKS_ROUND or not named else named:
            self._views.make(name)
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
                f"{self.command('verify')}. Restore them from a backup."
            ) from error
