"""Checks of rows: each image has one, and each date's summary matches its predictions.

The rows of many dates are checked together, in one temporary database, as starting one costs more
than checking the rows of a small date. A date with many rows has a database to itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa

from steel_batch import layout, schema
from steel_batch.database import load_stream, scratch_database
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.committed import read_file
from steel_batch.tables.file_checks import Problem
from steel_batch.tables.summary import FIELDS, summary_sql
from steel_batch.tables.table_log import LiveFile

Place = tuple[str, str]
"""An engine and a date."""
MEND: Final = "`steel-batch backfill --recheck` over that date, or `score` of it, repairs this"
_PLACE: Final = pa.field("place", pa.int32(), nullable=False)
_KEY: Final = pa.schema([schema.PREDICTIONS.field("image_key")])
_SUMMED: Final = pa.schema([f for f in FIELDS if f.name != "peak"])
_ROWS: Final = pa.schema([_PLACE, *_KEY, *(f.with_nullable(True) for f in _SUMMED)])
_COUNTS: Final = [
    f.name for f in schema.CLASS_SUMMARIES if pa.types.is_integer(f.type) and f.name != "class_id"
]
"""What is compared of a summary."""
_SUMMARY: Final = pa.schema(
    [schema.CLASS_SUMMARIES.field(name) for name in ("line", "class_id", *_COUNTS)]
)
_FOUND: Final = pa.schema([_PLACE, *_SUMMARY])


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The files of some engines and dates whose rows are checked together."""

    places: Sequence[Place]
    files: Mapping[str, Sequence[LiveFile]]
    """Of each table, those that are intact."""
    small: Mapping[str, bytes]
    """The bytes of the small ones, by key."""
    damaged: Collection[Place]
    """Places with damaged or unknown files: only duplicates are looked for."""
    skipped: Collection[Place]
    """Places of which nothing is concluded either, as a run may be about to commit to them."""


@dataclass(slots=True)
class ContentProblems:
    """What `check_contents` found, by kind."""

    duplicates: dict[str, list[Problem]] = field(default_factory=dict)
    """By table: images with more than one row or entry."""
    summaries: list[Problem] = field(default_factory=list)
    quarantine: list[Problem] = field(default_factory=list)
    """Images with both."""


def check_contents(store: Lake, contents: Contents) -> ContentProblems:
    """Check the rows of some engines and dates.

    Raises:
        LakeError: An intact file cannot be read.
    """
    found = ContentProblems()
    places = contents.places
    unsure = {*contents.damaged, *contents.skipped}
    with scratch_database() as con:
        for table, name in ((layout.PREDICTIONS, "scored"), (layout.QUARANTINE, "entries")):
            load_stream(con, name, _ROWS, _rows(store, contents, table))
            for place, message in _twice(con, name):
                unsure.add(places[place])
                problem = _problem("duplicate", table, places[place], message)
                found.duplicates.setdefault(table, []).append(problem)
        sure = [i for i, place in enumerate(places) if place not in unsure]
        con.register("sure", _numbers(sure))
        dated = {(f.engine, f.date) for f in contents.files[layout.PREDICTIONS] if f.num_rows}
        con.register("dated", _numbers([i for i in sure if places[i] in dated]))
        load_stream(con, "found", _FOUND, _summaries(store, contents))
        for kind, place, message in _compare_summaries(con):
            found.summaries.append(_problem(kind, layout.CLASS_SUMMARIES, places[place], message))
        for place, message in _both(con):
            found.quarantine.append(
                _problem("duplicate", layout.QUARANTINE, places[place], message)
            )
    return found


def _problem(kind: str, table: str, place: Place, message: str) -> Problem:
    return Problem(kind=kind, key=f"{table}/{layout.partition(*place)}", message=message)


def _numbers(places: Sequence[int]) -> pa.Table:
    return pa.table({"place": pa.array(places, _PLACE.type)})


def _rows(store: Lake, contents: Contents, table: str) -> Iterator[pa.RecordBatch]:
    """`_ROWS` of a table: keys, and of intact predictions what a summary is computed from."""
    number = {place: i for i, place in enumerate(contents.places)}
    for file in contents.files[table]:
        place = (file.engine, file.date)
        is_damaged = place in contents.damaged
        is_counted = table == layout.PREDICTIONS and not is_damaged
        fields = pa.schema([*_KEY, *(_SUMMED if is_counted else ())])
        try:
            for rows in _read(store, contents, file, fields):
                numbers = pa.repeat(pa.scalar(number[place], _PLACE.type), rows.num_rows)
                columns = [numbers, *rows.columns]
                columns += [pa.nulls(rows.num_rows, f.type) for f in [*_ROWS][len(columns) :]]
                yield pa.RecordBatch.from_arrays(columns, schema=_ROWS)
        except LakeError:
            if not is_damaged:
                raise


def _summaries(store: Lake, contents: Contents) -> Iterator[pa.RecordBatch]:
    """`_FOUND` of the places without damage."""
    number = {place: i for i, place in enumerate(contents.places)}
    for file in contents.files[layout.CLASS_SUMMARIES]:
        place = (file.engine, file.date)
        if place in contents.damaged:
            continue
        for rows in _read(store, contents, file, _SUMMARY):
            numbers = pa.repeat(pa.scalar(number[place], _PLACE.type), rows.num_rows)
            yield pa.RecordBatch.from_arrays([numbers, *rows.columns], schema=_FOUND)


def _read(
    store: Lake, contents: Contents, file: LiveFile, fields: pa.Schema
) -> Iterator[pa.RecordBatch]:
    return read_file(store, file.key, fields, kept=file.kept, data=contents.small.get(file.key))


def _twice(con: duckdb.DuckDBPyConnection, name: str) -> Iterator[tuple[int, str]]:
    """Places with images that have more than one row of a table."""
    found = con.sql(
        "SELECT place, count(*), min(image_key) FROM "  # noqa: S608 - a name of ours
        f"(SELECT place, image_key FROM {name} GROUP BY ALL HAVING count(*) > 1) "
        "GROUP BY place ORDER BY place"
    ).fetchall()
    for place, num_twice, example in found:
        yield place, f"{num_twice} images have more than one row, for example {example}"


def _both(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, str]]:
    """Places with images that have both a row and a quarantine entry."""
    found = con.sql(
        "SELECT place, count(*), min(image_key) FROM entries SEMI JOIN sure USING (place) "
        "SEMI JOIN scored USING (place, image_key) GROUP BY place ORDER BY place"
    ).fetchall()
    for place, num_both, example in found:
        yield place, f"{num_both} images have a row and a quarantine entry, for example {example}"


def _compare_summaries(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, int, str]]:
    """Places without a summary, or with one that does not match the predictions."""
    con.execute(
        "CREATE TABLE predictions AS SELECT place, line, has_defect, defects, []::FLOAT[] AS peak "
        "FROM scored SEMI JOIN dated USING (place)"
    )
    con.execute(
        "CREATE TABLE names AS SELECT place, unnest(range(1, max(class_id) + 1)) AS class_id, "
        "'' AS class_name FROM found GROUP BY place"
    )
    expected = summary_sql(["place", "line"], names="JOIN names USING (place)", run_id="''")
    columns = ", ".join(f"{side}.{name}" for side in ("f", "e") for name in _COUNTS)
    differing = " OR ".join(f"f.{name} IS DISTINCT FROM e.{name}" for name in _COUNTS)
    differences = con.sql(
        "SELECT coalesce(f.place, e.place), coalesce(f.line, e.line), "  # noqa: S608 - names of ours
        f"coalesce(f.class_id, e.class_id), f.place IS NULL, e.place IS NULL, {columns} "
        f"FROM (FROM found SEMI JOIN dated USING (place)) f FULL JOIN ({expected}) e "
        "ON f.place = e.place AND f.line IS NOT DISTINCT FROM e.line AND f.class_id = e.class_id "
        f"WHERE f.place IS NULL OR e.place IS NULL OR {differing}"
    ).fetchall()
    lacking = con.sql("FROM dated ANTI JOIN found USING (place)").fetchall()
    first: dict[int, list[Any]] = {}
    for place, *difference in sorted(differences, key=lambda row: str(row[1:3])):
        first.setdefault(place, difference)
    messages = {
        place: ("miscounted", f"its summary does not match its predictions: {_words(*difference)}")
        for place, difference in first.items()
    }
    messages |= {place: ("lost", "the date has predictions but no summary") for (place,) in lacking}
    for place, (kind, message) in sorted(messages.items()):
        yield kind, place, f"{message}. {MEND}"


def _words(line: str | None, class_id: int, is_expected: bool, is_found: bool, *counts: Any) -> str:
    """The first count in which two summaries differ."""
    place = f"line {line}, class {class_id}"
    if is_expected or is_found:
        return f"{place} is only in the {'predictions' if is_expected else 'summary'}"
    found, expected = counts[: len(_COUNTS)], counts[len(_COUNTS) :]
    name, a, b = next((n, a, b) for n, a, b in zip(_COUNTS, found, expected, strict=True) if a != b)
    return f"{place} has {name} {a}, expected {b}"
