"""A simulated year of predictions: how long questions take, next to DuckDB on the plain files.

The year has eight lines, four classes and a run a date; rows are drawn from a few thousand that are
made up once. Both sides answer the same SQL in one process, in turns, from opening the store or the
files to the rows; medians of the rounds, and their ratio. `report` of the last date is a process of
its own, with its peak memory.

    python -m benchmarks.answers [--dates 365] [--images 100000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.machine import describe_machine, keep
from steel_batch import layout, schema
from steel_batch.answers.open_store import OpenStore
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.committed import read_rows
from steel_batch.tables.merge import write_file
from steel_batch.tables.summary import FIELDS, summarize
from steel_batch.tables.table_log import ensure_tables, live_files, write_checkpoints

ENGINE = "made-0123456789ab"
CLASSES = ("pits", "lines", "scratches", "scabs")
RATES = (0.07, 0.02, 0.36, 0.13)
POOL = 4000
LAST = datetime.date(2026, 11, 21)
FROM_SUMMARIES = """
SELECT class_id, date_trunc('month', date) AS month, sum(num_defective) / sum(num_images) AS rate
FROM {class_summaries} GROUP BY ALL ORDER BY ALL"""
FROM_PREDICTIONS = """
WITH images AS (
  SELECT date_trunc('month', date) AS month, count(*) AS images FROM {predictions} GROUP BY ALL
), found AS (
  SELECT date_trunc('month', date) AS month, unnest(defects).class_id AS class_id
  FROM {predictions} WHERE has_defect
)
SELECT class_id, month, count(*) / any_value(images) AS rate
FROM found JOIN images USING (month) GROUP BY ALL ORDER BY ALL"""


def pool(rng: np.random.Generator) -> pa.Table:
    """Rows of one date without what differs between dates."""
    rows = []
    for number in range(POOL):
        found = [c for c, rate in enumerate(RATES) if rng.random() < rate]
        peak = [float(rng.beta(8, 2) if c in found else rng.beta(0.5, 12)) for c in range(4)]
        areas = {c: int(rng.lognormal(8, 1)) for c in found}
        rows.append(
            {
                "image_key": "", "image_id": "", "line": str(1 + number * 8 // POOL), "tags": [],
                "width": 1600, "height": 256, "bytes": 100_000, "etag": "e", "run_id": "",
                "scored_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
                "has_defect": bool(found), "peak": peak,
                "defects": [
                    {
                        "class_id": c + 1, "area_px": areas[c], "num_components": 2,
                        "rle": " ".join(f"{s} {areas[c] // 30 + 1}" for s in range(1, 7680, 256)),
                        "bbox": {"x": 0, "y": 0, "w": 30, "h": areas[c] // 30 + 1},
                        "peak": peak[c],
                    }
                    for c in found
                ],
                "brightness": float(rng.normal(80, 20)), "contrast": float(rng.normal(17, 4)),
                "sharpness": float(rng.normal(3, 0.5)),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema.PREDICTIONS)


def make_year(store: Lake, num_dates: int, num_images: int) -> None:
    """Commit a run a date."""
    ensure_tables(store)
    rng = np.random.default_rng(1)
    rows = pool(rng)
    for day in range(num_dates):
        date = str(LAST - datetime.timedelta(days=num_dates - 1 - day))
        run_id = layout.run_id(ENGINE, date, 1)
        taken = rows.take(pa.array(np.sort(rng.integers(0, POOL, num_images))))
        keys = pa.array([f"date={date}/im{number:07}.jpg" for number in range(num_images)])
        for name, column in (
            ("image_key", keys), ("image_id", keys), ("run_id", pa.array([run_id] * num_images)),
        ):  # fmt: skip
            place = taken.schema.get_field_index(name)
            taken = taken.set_column(place, taken.schema.field(name), column)
        write(store, layout.PREDICTIONS, run_id, date, taken, schema.PREDICTIONS)
        files = live_files(store, layout.PREDICTIONS, ENGINE, date)
        batches = read_rows(store, files, FIELDS)
        summary = summarize(batches, CLASSES, run_id)
        write(store, layout.CLASS_SUMMARIES, run_id, date, summary, schema.CLASS_SUMMARIES)
        for table in layout.TABLES:
            live_files(store, table, ENGINE, date)
        write_checkpoints(store)  # as each run does


def write(
    store: Lake, table: str, run_id: str, date: str, rows: pa.Table, fields: pa.Schema
) -> None:
    file = write_file(
        store, fields, [rows], merged=layout.merged_file(run_id, table, 0),
        target=layout.table_file(table, ENGINE, date, run_id, 0),
    )  # fmt: skip
    land(store, table, run_id, [file])


def ours(store: Lake, sql: str) -> list[Any]:
    with OpenStore(store) as opened:
        found: list[Any] = opened.sql(
            sql.format(class_summaries="class_summaries", predictions="predictions")
        ).fetchall()
        return found


def plain(store: Lake, sql: str) -> list[Any]:
    def files(table: str) -> str:
        glob = f"{store.url}/{table}/*/*/*.parquet"
        return f"read_parquet('{glob}', hive_partitioning = true, union_by_name = true)"

    with duckdb.connect() as con:
        con.execute("SET threads = 2")
        return con.sql(
            sql.format(class_summaries=files("class_summaries"), predictions=files("predictions"))
        ).fetchall()


def compared(store: Lake, sql: str, num_rounds: int) -> dict[str, float]:
    """Seconds of each side, in turns, after a round that fills the page cache."""
    sides: dict[str, Callable[[Lake, str], list[Any]]] = {"ours": ours, "duckdb": plain}
    answers = [side(store, sql) for side in sides.values()]
    assert answers[0] == answers[1], "both sides find the same"
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, side in sides.items():
            started, used = time.perf_counter(), time.process_time()
            side(store, sql)
            seconds[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - used)
    found = {f"{name}_seconds": round(statistics.median(s), 3) for name, s in seconds.items()}
    found |= {f"{name}_cpu_seconds": round(statistics.median(s), 3) for name, s in cpu.items()}
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["duckdb"])
    return found | {"ratio": round(ratio, 2)}


MEASURED = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, capture_output=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "seconds": round(time.perf_counter() - started, 1),
    "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "peak_mb": round(used.ru_maxrss / 1024),
}))
"""
"""Runs a command from a small process: a child's peak begins with the memory of what forked it."""


def report(store: Lake, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [
            sys.executable, "-c", MEASURED, sys.executable, "-m", "steel_batch.cli", "report",
            "--store", store.url, "--date", str(LAST), "--engine", ENGINE,
            "--out", str(folder / "report.html"),
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", type=int, default=365)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Lake(f"{folder}/store")
        make_year(store, arguments.dates, arguments.images)
        keep(
            "answers",
            {
                **describe_machine(),
                "dates": arguments.dates,
                "rows": arguments.dates * arguments.images,
                "from_summaries": compared(store, FROM_SUMMARIES, arguments.rounds),
                "from_predictions": compared(store, FROM_PREDICTIONS, arguments.rounds),
                "report": report(store, Path(folder)),
            },
        )


if __name__ == "__main__":
    main()
