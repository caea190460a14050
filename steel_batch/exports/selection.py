"""Which images are exported or shown, and the names they get."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from steel_batch import layout
from steel_batch.answers import views
from steel_batch.answers.open_store import OpenStore
from steel_batch.errors import ConfigError

PICKED: Final = "internal.picked"
_ASKED: Final = "internal.asked"
_CONTAINER: Final = r"(?s)^.*?\.(tar|parquet)#"
"""What a key has before the name of a container's member. DuckDB reads it as Python does."""
COLUMNS: Final = "image_key, engine, run_id, bytes, width, height, defects"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A user's conditions, all of which must hold."""

    date: str | None = None
    """A date, or a year or a month."""
    engine: str | None = None
    """Engine whose rows are taken. By default, for each date, the engine in the view `current`;
    with `query`, the engine that it returns, or the only one that scored the image."""
    where: str | None = None
    """SQL over the columns of `predictions`."""
    query: str | None = None
    """SQL that returns `image_key`, and `date` and `engine` if needed: images in its order."""
    limit: int | None = None
    """Largest number of images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image and its defects."""

    key: str
    name: str
    """The image's name in the export."""
    engine: str
    run_id: str
    bytes: int
    width: int
    height: int
    defects: list[dict[str, Any]]
    """Values of `schema.DEFECT`."""


class Picked:
    """The images of a selection, in an open store.

    Args:
        store: The store; it can hold one selection at a time.
        selection: Which images.
        by_key: Name images by their whole keys; otherwise by their file names.

    Raises:
        ConfigError: The SQL is wrong or returns unknown images, a key that it returns has several
            rows, no image is selected, two images would have the same name, or two engines have
            different classes.
    """

    def __init__(self, store: OpenStore, selection: Selection, *, by_key: bool) -> None:
        self._store = store
        self._by_key = by_key
        if selection.query is not None:
            _one_statement(selection.query, "--query")
            store.run(f"CREATE TABLE {_ASKED} AS {selection.query}", names=selection.query)
        store.run(f"CREATE VIEW {PICKED} AS {self._sql(selection)}")
        engines = [row[0] for row in store.fetch(f"SELECT DISTINCT engine FROM {PICKED}")]  # noqa: S608 - ours
        if not engines:
            self._refuse_unknown_engine(selection.engine)
            raise ConfigError(
                "no image matches: check --date, --engine, --where and --query. To list the dates "
                "and engines that have rows: "
                f"{store.command('query', 'FROM current')}."
            )
        self.classes = self._classes(engines)
        self._refuse_same_names()

    def __iter__(self) -> Iterator[Image]:
        relation = self._store.sql(f"SELECT * FROM {PICKED}")  # noqa: S608 - ours
        for batch in relation.read()[1]:
            for row in batch.to_pylist():
                yield Image(
                    key=row["image_key"], name=self._name(row["image_key"]), engine=row["engine"],
                    run_id=row["run_id"], bytes=row["bytes"], width=row["width"],
                    height=row["height"], defects=row["defects"],
                )  # fmt: skip

    def _sql(self, selection: Selection) -> str:
        rows, order, by = layout.PREDICTIONS, "", list[str]()
        if selection.query is not None:
            given = {row[0] for row in self._store.fetch(f"DESCRIBE {_ASKED}")}
            if "image_key" not in given:
                raise ConfigError(
                    "--query returns no column image_key, which identifies the images; it returns "
                    f"{', '.join(sorted(given))}."
                )
            by = [name for name in ("image_key", "date", "engine") if name in given]
            names = ", ".join(by)
            self._refuse_unknown_images(names)
            asked = f"(SELECT {names}, min(rowid) AS place FROM {_ASKED} GROUP BY ALL)"  # noqa: S608 - ours
            rows, order = f"(SELECT * FROM {rows} JOIN {asked} USING ({names}))", " ORDER BY place"  # noqa: S608 - ours
        conditions = []
        if selection.engine is not None:
            conditions.append(f"engine = '{selection.engine.replace(chr(39), chr(39) * 2)}'")
        elif selection.query is None:
            rows = f"(SELECT * FROM {rows} SEMI JOIN {views.CURRENT} USING (date, engine))"  # noqa: S608 - ours
        if selection.date is not None:
            first, last = days_of(selection.date)
            conditions.append(f"date BETWEEN DATE '{first}' AND DATE '{last}'")
        if conditions:
            rows = f"(SELECT * FROM {rows} WHERE {' AND '.join(conditions)})"  # noqa: S608 - ours
        if selection.query is not None:
            self._refuse_ambiguous(rows, by)
        where = ""
        if selection.where is not None:
            if not selection.where.strip():
                raise ConfigError("--where is empty: give a condition, or remove it.")
            # Outside of the other conditions, so that a user's parentheses cannot affect them.
            _one_statement(f"SELECT ({selection.where}\n)", "--where")
            where = f" WHERE ({selection.where}\n)"
        limit = "" if selection.limit is None else f" LIMIT {selection.limit}"
        sql = f"SELECT {COLUMNS} FROM {rows}{where}{order}{limit}"  # noqa: S608 - a user's own condition
        self._store.prepare(sql)
        return sql

    def _refuse_unknown_images(self, by: str) -> None:
        """Refuse what `--query` returns if the store has no row of it, whatever the other flags."""
        self._store.prepare(layout.PREDICTIONS)
        asked = f"(SELECT DISTINCT {by} FROM {_ASKED})"  # noqa: S608 - ours
        ((num, example),) = self._store.fetch(
            f"SELECT count(*), min(CAST(({by}) AS VARCHAR)) "  # noqa: S608 - ours
            f"FROM {asked} ANTI JOIN {layout.PREDICTIONS} USING ({by})"
        )
        if num:
            raise ConfigError(
                f"--query returns images that have no row in {layout.PREDICTIONS}: found {num:,}, "
                f"for example {example}. Correct the query, or leave them out of it with SEMI JOIN "
                f"{layout.PREDICTIONS} USING ({by})."
            )

    def _refuse_ambiguous(self, rows: str, by: Sequence[str]) -> None:
        """Refuse what `--query` returns if it could be rows of several engines or dates.

        Args:
            rows: The rows of what it returns, after the other flags but `--where`.
            by: The columns that it returns, of those that identify a row.
        """
        ((num, place),) = self._store.fetch(
            f"SELECT count(*), min(place) FROM (SELECT place FROM {rows} GROUP BY place "  # noqa: S608 - ours
            "HAVING min(engine) <> max(engine) OR min(date) <> max(date))"
        )
        if not num:
            return
        ((key, engines, dates),) = self._store.fetch(
            "SELECT any_value(image_key), list(DISTINCT engine ORDER BY engine), "  # noqa: S608 - ours
            f"list(DISTINCT date::VARCHAR ORDER BY date::VARCHAR) FROM {rows} WHERE place = {place}"
        )
        several = {
            name: found for name, found in (("date", dates), ("engine", engines)) if len(found) > 1
        }
        rows_of = " and ".join(f"several {name}s ({', '.join(several[name])})" for name in several)
        raise ConfigError(
            f"--query returns no {' and no '.join(several)} for {key}, which has rows of {rows_of}"
            f"; found {num:,} such images. Add to the query what is missing (SELECT "
            f"{', '.join([*by, *several])}), or choose with "
            f"{' and '.join(f'--{name}' for name in several)}."
        )

    def _refuse_unknown_engine(self, engine: str | None) -> None:
        known = [row[0] for row in self._store.fetch("SELECT DISTINCT engine FROM predictions")]
        if engine is not None and engine not in known:
            raise ConfigError(
                f"engine {engine} has no rows in this store: expected one of: "
                f"{', '.join(sorted(known))}."
            )

    def _classes(self, engines: list[str]) -> dict[int, str]:
        """Return the names of the classes by number, which all engines of the selection share."""
        of_engine = {engine: self._store.classes(engine) for engine in engines}
        first = engines[0]
        for engine, classes in of_engine.items():
            if classes != of_engine[first]:
                raise ConfigError(
                    f"the selected images were scored by engines with different classes: {first} "
                    f"has {_listed(of_engine[first])}, {engine} has {_listed(classes)}. Select one "
                    "engine with --engine, or other dates."
                )
        return of_engine[first]

    def _name(self, key: str) -> str:
        return key if self._by_key else re.sub(_CONTAINER, "", key).rpartition("/")[2]

    def _refuse_same_names(self) -> None:
        name = f"regexp_extract(regexp_replace(image_key, '{_CONTAINER}', ''), '[^/]*$')"
        name = "image_key" if self._by_key else name
        twice = self._store.fetch(
            f"SELECT {name} AS name, min(image_key), max(image_key), min(engine), max(engine) "  # noqa: S608 - ours
            f"FROM {PICKED} GROUP BY 1 HAVING count(*) > 1 LIMIT 1"
        )
        for found, key, other, engine, engine_too in twice:
            if key != other:
                raise ConfigError(
                    f"{key} and {other} would have the same name, {found}: add --names key, or "
                    "select fewer images."
                )
            raise ConfigError(
                f"{key} is selected twice, with rows of {engine} and {engine_too} or of two dates: "
                "add --engine or --date."
            )


def _one_statement(sql: str, flag: str) -> None:
    """Refuse several statements in a text that is inserted into another statement."""
    try:
        num = len(duckdb.extract_statements(sql))
    except duckdb.Error as error:
        raise ConfigError(f"{flag}: {error}") from error
    if num != 1:
        raise ConfigError(f"{flag} takes one statement without ';', found {num}.")


def days_of(date: str) -> tuple[str, str]:
    """Return the first and the last day of a date, a month or a year."""
    layout.check_date_prefix(date)
    year, *rest = map(int, date.split("-"))
    first_month, last_month = (rest[0], rest[0]) if rest else (1, 12)
    last_day = calendar.monthrange(year, last_month)[1]
    first, last = (rest[1], rest[1]) if len(rest) > 1 else (1, last_day)
    return f"{year:04}-{first_month:02}-{first:02}", f"{year:04}-{last_month:02}-{last:02}"


def _listed(classes: dict[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in classes.items()) or "none"
