"""Every reader finds the rows that pandas finds, whatever a filter names.

Readers leave files out by what a table's log says of them, so every column of every table is
asked for: in a store of the build of 28 November 2026, in that store brought up to date, and in a
new one.
"""

from __future__ import annotations

import datetime
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
from steel_batch.tables.commit import SCHEMAS, all_live_files, ensure_tables, land
from steel_batch.tables.merge import write_file
from steel_batch.tables.query import run_query
from tests.golden_store import copy_golden_store
from tests.made_up_run import ENGINE, NOW, commit_run, image_keys, made_up_row, rows_table
from tests.tables.predicates import Predicate, predicates

KEYS = {
    layout.PREDICTIONS: ["date", "image_key"],
    layout.CLASS_SUMMARIES: ["date", "line", "class_id"],
    layout.QUARANTINE: ["date", "image_key"],
}
"""What tells the rows of a table apart."""
ADDED = schema.PROVENANCE.names
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


def readers(rows: Rows, where: Predicate, *, of: str) -> Iterator[tuple[str, Any]]:
    """What each reader answers. deltalake's misses rows in a store of an earlier build."""
    names = KEYS[rows.table]
    sql = f"SELECT {', '.join(names)} FROM {{}} WHERE {where.sql}"
    yield "query", run_query(rows.store, sql.format(rows.table))
    if of != "old":
        table = DeltaTable(rows.uri)
        yield "deltalake", table.to_pyarrow_table(filters=where.arrow, columns=names)
        with duckdb.connect() as con:
            con.register("found", table.to_pyarrow_dataset())
            yield "DuckDB over deltalake", con.sql(sql.format("found")).to_arrow_table()
    yield "Polars", pl.scan_delta(rows.uri).filter(where.polars).select(names).collect()
    glob = f"read_parquet('{rows.glob}', hive_partitioning = true, union_by_name = true)"
    if of != "upgraded" or not any(name in where.sql for name in ADDED):
        with duckdb.connect() as con:  # no file there has the columns that were added
            yield "DuckDB", con.sql(sql.format(glob)).to_arrow_table()


@hypothesis.settings(
    max_examples=15,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_every_reader_finds_what_pandas_finds(data: st.DataObject, rows: Rows, name: str) -> None:
    fields = [f for f in SCHEMAS[rows.table] if name != "old" or f.name not in ADDED]
    where = data.draw(predicates(rows.frame, pa.schema(fields)))
    expected = rows.expected(where)
    for reader, found in readers(rows, where, of=name):
        assert rows.keys(found) == expected, reader
