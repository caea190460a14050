"""Runs that are merged but not landed, what readers then see, and what others do to a table."""

from __future__ import annotations

from typing import Any

from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.runs.record import RunRecord
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.query import run_query
from steel_batch.tables.sweep import sweep
from tests.made_up_run import DATE, ENGINE, begin, image_keys, merge, score_shards

PREDICTIONS = layout.PREDICTIONS


def ready(store: Lake, num: int = 8, **settings: Any) -> tuple[RunRecord, list[DataFile]]:
    """A run whose files are merged."""
    record = begin(store, image_keys(num), **settings)
    score_shards(store, record)
    return record, merge(store, record)


def image_keys_in(store: Lake, table: str = PREDICTIONS) -> list[str]:
    """What a Delta reader sees."""
    rows = run_query(store, f"SELECT image_key FROM {table} ORDER BY 1")
    return [str(key) for key in rows["image_key"].to_pylist()]


def everything(store: Lake, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_query(store, f"SELECT * FROM {table} ORDER BY ALL").to_pylist()
    return rows


def rewrite_table(store: Lake, how: str) -> None:
    """What somebody else does to the predictions."""
    table = DeltaTable(store.uri(PREDICTIONS))
    if how == "z_order":
        table.optimize.z_order(["image_key"])
    else:
        table.delete("image_key = '1/im00000.jpg'")


def swept(store: Lake) -> list[str]:
    """What a sweep of all tables deletes."""
    return [
        key
        for table in layout.TABLES
        for key in sweep(store, table, ENGINE, DATE, before=lambda: None)
    ]
