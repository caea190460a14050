"""Every reader finds the rows that pandas finds, whatever a filter names.

Readers leave files out by what a table's log says of them, so every column of every table is
asked for: in a store of the build of 28 November 2026, in that store brought up to date, and in a
new one.
"""

from __future__ import annotations

import datetime
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import hypothesis
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import strategies as st

from steel_batch import layout, schema
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.merge import write_file
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import SCHEMAS, all_live_files, ensure_tables
from tests.conftest import examples
from tests.golden_store import copy_golden_store
from tests.made_up_run import ENGINE, NOW, commit_run, image_keys, made_up_row, rows_table
from tests.tables.predicates import Predicate, predicates

KEYS = {
    layout.PREDICTIONS: ["date", "image_key"],
    layout.CLASS_SUMMARIES: ["date", "line", "class_id"],
    layout.QUARANTINE: ["date", "image_key"],
}
"""What tells the rows of a table apart."""
ADDED = [*schema.PROVENANCE.names, *schema.APPEARANCE.names]
"""Columns that the build of 28 November 2026 did not have."""
TEXTS = ["", "it's", "50%", "a_b", "Ä", "\U0010ffff", "z" * 1024, "z" * 1025, " line 1"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One table, and its rows as they lie in its files."""

    store: Lake
    table: str
    frame: pd.DataFrame

    @property
    def uri(self) -> str:
        return self.store.uri(self.table)

    @property
    def glob(self) -> str:
        return f"{self.uri}/*/*/*.parquet"

    def expected(self, where: Predicate) -> list[tuple[str, ...]]:
        return self.keys(self.frame[where.mask(self.frame)][KEYS[self.table]])

    def keys(self, found: pd.DataFrame | pa.Table | pl.DataFrame) -> list[tuple[str, ...]]:
        names = KEYS[self.table]
        if isinstance(found, pa.Table):
            rows = [tuple(row[name] for name in names) for row in found.to_pylist()]
        elif isinstance(found, pl.DataFrame):
            rows = list(found.select(names).rows())
        else:
            rows = list(found[names].itertuples(index=False, name=None))
        return sorted(tuple(map(str, row)) for row in rows)


def varied_rows(num: int) -> list[dict[str, Any]]:
    """Rows with odd texts, times to the microsecond, nulls, and none of some columns."""
    rng = random.Random(1)
    rows = []
    for i in range(num):
        text = TEXTS[i % len(TEXTS)]
        made = made_up_row(f"{i % 3}/{text[:9]}{i:03}", "r")
        made["image_id"] = text
        made["line"] = None if i % 3 == 0 else text
        made["width"], made["height"] = rng.choice([(1600, 256), (800, 128), (1, 2**31 - 1)])
        made["bytes"] = rng.choice([0, 1, 2**53 + 1, 2**62])
        made["scored_at"] = NOW + datetime.timedelta(microseconds=rng.randint(0, 2_000_000))
        made["device"] = None
        made["runtime"] = None if i % 2 else "tensorrt"
        rows.append(made)
    return rows


def make_new_store(folder: Path) -> Lake:
    """Several runs of three dates, late images, images in quarantine, and files of odd values."""
    store = Lake(str(folder))
    keys = image_keys(14, lines=("1", None, "2"))
    commit_run(store, keys, bad=keys[:3], merge_bytes=1)
    commit_run(store, image_keys(4, first=20))
    commit_run(store, image_keys(6, lines=(None,)), date="2026-11-22", bad=image_keys(1))
    rows, date = varied_rows(36), "2026-11-23"
    run_id = layout.run_id(ENGINE, date, 1)
    for row in rows:
        row["run_id"] = run_id
    files = [
        write_file(
            store, schema.PREDICTIONS, [rows_table(rows[start : start + 9])],
            merged=layout.merged_file(run_id, layout.PREDICTIONS, number),
            target=layout.table_file(layout.PREDICTIONS, ENGINE, date, run_id, number),
        )
        for number, start in enumerate(range(0, len(rows), 9))
    ]  # fmt: skip
    land(store, layout.PREDICTIONS, run_id, files)
    return store


def frame_of(store: Lake, table: str) -> pd.DataFrame:
    """The rows of a table's files, read one by one and without a log's help, None for null."""
    parts = [pa.Table.from_pylist([], SCHEMAS[table])]
    for file in all_live_files(store, table):
        rows = pq.ParquetFile(store.uri(file.key)).read()
        date = pa.scalar(datetime.date.fromisoformat(file.date))
        for name, value in (("engine", pa.scalar(file.engine)), ("date", date)):
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        parts.append(rows)
    rows = pa.concat_tables(parts, promote_options="permissive")
    return pd.DataFrame(
        {n: pd.Series(rows[n].to_pylist(), dtype=object) for n in rows.schema.names}
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lake]:
    folder = tmp_path_factory.mktemp("stores")
    old = copy_golden_store(folder / "old").store
    upgraded = copy_golden_store(folder / "upgraded").store
    ensure_tables(upgraded)
    return {"old": old, "upgraded": upgraded, "new": make_new_store(folder / "new")}


@pytest.fixture(scope="module", params=["old", "upgraded", "new"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=layout.TABLES)
def rows(request: pytest.FixtureRequest, stores: dict[str, Lake], name: str) -> Rows:
    store = stores[name]
    return Rows(store=store, table=request.param, frame=frame_of(store, request.param))


@functools.cache
def in_memory() -> duckdb.DuckDBPyConnection:
    """One database for all questions: to open one takes longer than to answer most of them."""
    return duckdb.connect()


def readers(rows: Rows, where: Predicate, *, of: str) -> Iterator[tuple[str, Any]]:
    """What each reader answers. deltalake's misses rows in a store of an earlier build."""
    names = KEYS[rows.table]
    sql = f"SELECT {', '.join(names)} FROM {{}} WHERE {where.sql}"
    yield "query", run_query(rows.store, sql.format(rows.table))
    if of != "old":
        table = DeltaTable(rows.uri)
        yield "deltalake", table.to_pyarrow_table(filters=where.arrow, columns=names)
        with in_memory().cursor() as con:
            con.register("found", table.to_pyarrow_dataset())
            yield "DuckDB over deltalake", con.sql(sql.format("found")).to_arrow_table()
    yield "Polars", pl.scan_delta(rows.uri).filter(where.polars).select(names).collect()
    glob = f"read_parquet('{rows.glob}', hive_partitioning = true, union_by_name = true)"
    if of != "upgraded" or not any(name in where.sql for name in ADDED):
        with in_memory().cursor() as con:  # no file there has the columns that were added
            yield "DuckDB", con.sql(sql.format(glob)).to_arrow_table()


@hypothesis.settings(
    max_examples=examples(15),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_every_reader_finds_what_pandas_finds(data: st.DataObject, rows: Rows, name: str) -> None:
    fields = [f for f in SCHEMAS[rows.table] if name != "old" or f.name not in ADDED]
    where = data.draw(predicates(rows.frame, pa.schema(fields)))
    expected = rows.expected(where)
    for reader, found in readers(rows, where, of=name):
        assert rows.keys(found) == expected, reader


@dataclass(frozen=True, kw_only=True)
class Question:
    """A query over the tables, and how many rows pandas finds."""

    sql: str
    num_rows: int


NESTED = {
    "len(defects) > 1": lambda row: len(row["defects"]) > 1,
    "peak[2] >= 0.5": lambda row: row["peak"][1] >= 0.5,
    "list_contains(list_transform(defects, lambda d: d.class_id), 3)": lambda row: any(
        defect["class_id"] == 3 for defect in row["defects"]
    ),
    "tags['camera'] = 'top'": lambda row: ("camera", "top") in row["tags"],
    "NOT has_defect": lambda row: not row["has_defect"],
}
"""Conditions on what lies inside a row of the predictions."""


def ask_one(draw: st.DrawFn, frames: dict[str, pd.DataFrame]) -> Question:
    """A filter of one table."""
    table = draw(st.sampled_from(layout.TABLES))
    where = draw(predicates(frames[table], SCHEMAS[table]))
    return Question(
        sql=f"SELECT * FROM {table} WHERE {where.sql}",
        num_rows=int(where.mask(frames[table]).sum()),
    )


def ask_nested(draw: st.DrawFn, frames: dict[str, pd.DataFrame]) -> Question:
    """A filter of the predictions and a condition on what lies inside their rows."""
    frame = frames[layout.PREDICTIONS]
    where = draw(predicates(frame, SCHEMAS[layout.PREDICTIONS]))
    inside = draw(st.sampled_from(sorted(NESTED)))
    holds = frame.apply(NESTED[inside], axis=1)
    both = draw(st.booleans())
    mask = where.mask(frame) & holds if both else where.mask(frame) | holds
    return Question(
        sql=f"SELECT * FROM predictions WHERE {where.sql} {'AND' if both else 'OR'} {inside}",
        num_rows=int(mask.sum()),
    )


def ask_join(draw: st.DrawFn, frames: dict[str, pd.DataFrame]) -> Question:
    """Predictions joined with the summaries of their line, both filtered."""
    left, right = layout.PREDICTIONS, layout.CLASS_SUMMARIES
    of_left = draw(predicates(frames[left], SCHEMAS[left]))
    of_right = draw(predicates(frames[right], SCHEMAS[right]))
    on = ["engine", "date", "line"]
    found = [
        frames[table][where.mask(frames[table])][on].dropna()
        for table, where in ((left, of_left), (right, of_right))
    ]
    return Question(
        sql=f"SELECT * FROM (SELECT * FROM {left} WHERE {of_left.sql}) AS a JOIN "
        f"(SELECT * FROM {right} WHERE {of_right.sql}) AS b USING (engine, date, line)",
        num_rows=len(found[0].merge(found[1], on=on)),
    )


def ask_anti_join(draw: st.DrawFn, frames: dict[str, pd.DataFrame]) -> Question:
    """Predictions of dates without an entry in quarantine of some kind."""
    frame, entries = frames[layout.PREDICTIONS], frames[layout.QUARANTINE]
    where = draw(predicates(entries, SCHEMAS[layout.QUARANTINE]))
    dates = set(entries[where.mask(entries)]["date"])
    return Question(
        sql="SELECT * FROM predictions ANTI JOIN "
        f"(SELECT * FROM quarantine WHERE {where.sql}) USING (date)",
        num_rows=int((~frame["date"].isin(dates)).sum()),
    )


@st.composite
def questions(draw: st.DrawFn, frames: dict[str, pd.DataFrame]) -> Question:
    kinds = [ask_one, ask_one, ask_nested, ask_join, ask_anti_join]
    return draw(st.sampled_from(kinds))(draw, frames)


@pytest.fixture(scope="module")
def frames(stores: dict[str, Lake], name: str) -> dict[str, pd.DataFrame]:
    """The rows of each table, null in columns that a build did not have."""
    found = {}
    for table in layout.TABLES:
        frame = frame_of(stores[name], table)
        missing = [column for column in SCHEMAS[table].names if column not in frame]
        found[table] = frame.assign(**dict.fromkeys(missing))
    return found


def check_questions(store: Lake, frames: dict[str, pd.DataFrame], num_questions: int) -> None:
    @hypothesis.settings(max_examples=num_questions)
    @hypothesis.given(question=questions(frames))
    def check(question: Question) -> None:
        assert run_query(store, question.sql).num_rows == question.num_rows, question.sql

    check()


def test_queries_joins_and_nested_conditions_give_what_pandas_gives(
    stores: dict[str, Lake], name: str, frames: dict[str, pd.DataFrame]
) -> None:
    check_questions(stores[name], frames, examples(20))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_queries_give_what_pandas_gives(
    stores: dict[str, Lake], name: str, frames: dict[str, pd.DataFrame]
) -> None:
    check_questions(stores[name], frames, 1000)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rays_reader_of_delta_tables_finds_what_pandas_finds(stores: dict[str, Lake]) -> None:
    import ray.data  # other tests of this file would wait for it
    from ray.data.expressions import col, lit

    for store in (stores["upgraded"], stores["new"]):
        for table, column, value in (
            (layout.PREDICTIONS, "width", 160),
            (layout.PREDICTIONS, "has_defect", False),
            (layout.CLASS_SUMMARIES, "num_components", 0),
            (layout.QUARANTINE, "error_code", "empty"),
        ):
            found = ray.data.read_delta(store.uri(table)).filter(expr=col(column) == lit(value))
            num_rows = int((frame_of(store, table)[column] == value).sum())
            assert found.count() == num_rows > 0, (store, table, column)
