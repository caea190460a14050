"""Other programs read the tables: the plain files and the Delta tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
import s3fs
from deltalake import DeltaTable

from steel_batch import layout, schema
from steel_batch.lake import Lake
from steel_batch.tables.table_log import all_live_files, open_table
from tests.made_up_run import DATE, ENGINE, commit_run, image_keys, made_up_row

PREDICTIONS = layout.PREDICTIONS
READERS = ("duckdb", "pandas", "polars", "pyarrow", "deltalake")


def test_every_reader_sees_the_same_rows(lake: Lake) -> None:
    """Two engines, two dates, several files: by the plain glob, and by the Delta table."""
    keys = image_keys(10, lines=("1", None))
    expected = set()
    for engine, date in ((ENGINE, DATE), ("other-ffffffffffff", "2026-11-22")):
        commit_run(lake, keys, engine=engine, date=date, merge_bytes=1)
        expected |= {seen({**made_up_row(key, ""), "engine": engine, "date": date}) for key in keys}
    for reader in READERS:
        found = [seen(row) for row in read_with(reader, lake)]
        assert len(found) == 20, reader
        assert set(found) == expected, reader


def test_duckdb_reads_the_delta_table_itself(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    commit_run(store, image_keys(8))
    with duckdb.connect() as con:
        try:
            con.execute("LOAD delta")
        except duckdb.Error:
            pytest.skip("DuckDB's delta extension is not installed here")
        found = con.sql(f"SELECT image_key FROM delta_scan('{tmp_path}/predictions')").fetchall()
    assert sorted(key for (key,) in found) == sorted(image_keys(8))


def seen(row: dict[str, Any]) -> tuple[object, ...]:
    """What of a row is compared: partition, plain, nullable and nested columns."""
    area = sum(defect["area_px"] for defect in row["defects"])
    date = str(row["date"])[:10]
    return (row["engine"], date, row["image_key"], row["line"], row["has_defect"], area)


def read_with(reader: str, lake: Lake) -> list[dict[str, Any]]:
    root = f"{lake.url}/predictions"
    glob = f"{root}/*/*/*.parquet"
    options = {}
    if lake.is_s3:
        options = {"key": "testing", "secret": "testing", "endpoint_url": lake.endpoint_url}
    rows: list[dict[str, Any]]
    if reader == "pandas":
        frame = pd.read_parquet(root, storage_options=options or None)
        rows = (
            frame.astype(object).where(frame.notna() | frame.map(is_list), None).to_dict("records")
        )
    elif reader == "polars":
        keys = {k: v for k, v in lake.storage_options().items() if k.startswith("AWS_")}
        rows = pl.read_parquet(
            glob, hive_partitioning=True, storage_options=keys or None
        ).to_dicts()
    elif reader == "pyarrow":
        if lake.is_s3:
            fs = s3fs.S3FileSystem(**options)
            dataset = ds.dataset(root.removeprefix("s3://"), filesystem=fs, partitioning="hive")
        else:
            dataset = ds.dataset(root, partitioning="hive")
        rows = dataset.to_table().to_pylist()
    elif reader == "deltalake":
        table = DeltaTable(root, storage_options=lake.storage_options())
        rows = table.to_pyarrow_table().to_pylist()
    else:
        with duckdb.connect() as con:
            if lake.is_s3:
                con.register_filesystem(s3fs.S3FileSystem(**options))
            rows = con.sql(f"SELECT * FROM '{glob}'").to_arrow_table().to_pylist()
    return rows


def is_list(value: object) -> bool:
    return not isinstance(value, (str, float, int, type(None)))


def test_files_hold_the_tables_schemas_without_what_stands_in_their_path(folder: Lake) -> None:
    commit_run(folder, image_keys(4), bad=image_keys(1))
    for table, fields in {
        "predictions": schema.PREDICTIONS,
        "class_summaries": schema.CLASS_SUMMARIES,
        "quarantine": schema.QUARANTINE,
    }.items():
        (file,) = all_live_files(folder, table)
        with folder.open_input(file.key) as stream:
            assert ds.ParquetFileFormat().inspect(stream).equals(fields)


def test_delta_readers_skip_files_of_other_lines(folder: Lake) -> None:
    commit_run(folder, image_keys(16), merge_bytes=1)
    dataset = open_table(folder, PREDICTIONS).to_pyarrow_dataset()
    assert len(list(dataset.get_fragments())) == 4
    assert len(list(dataset.get_fragments(ds.field("line") == "2"))) == 2
    assert len(list(dataset.get_fragments(ds.field("line") == "3"))) == 0
