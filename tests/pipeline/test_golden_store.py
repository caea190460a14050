"""A store that the build of 28 November 2026 wrote is read, verified and continued."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.config import ALL_DATES, ScoreConfig
from steel_batch.lake import Lake
from steel_batch.pipeline.backfill import backfill
from steel_batch.pipeline.backfill_config import BackfillConfig
from steel_batch.runs.receipt import read_receipts
from steel_batch.runs.record import read_run
from steel_batch.tables.query import run_query
from steel_batch.tables.verify import verify
from tests.golden.make_store import (
    DATES,
    INTERRUPTED,
    NUM_IMAGES,
    PATTERN,
    draw_image,
    draw_interrupted,
    key_of,
    write_image,
)
from tests.golden_store import GOLDEN_ENGINE, GoldenPlaces, copy_golden_store
from tests.score_here import score_here


@pytest.fixture
def golden(tmp_path: Path) -> GoldenPlaces:
    return copy_golden_store(tmp_path)


def config(golden: GoldenPlaces, date: str, **changes: object) -> ScoreConfig:
    settings: dict[str, object] = {
        "images": str(golden.images),
        "store": golden.store.url,
        "key_pattern": PATTERN,
        "engine": str(golden.engine),
        "date": date,
        "runtime": "onnxruntime",
        "max_bad": 0.5,
    }
    return ScoreConfig(**(settings | changes))  # type: ignore[arg-type]


def by_runtime(store: Lake) -> list[tuple[str, str | None, int]]:
    rows = run_query(
        store,
        "SELECT date::text AS date, precision, count(*) AS n FROM predictions "
        "GROUP BY ALL ORDER BY ALL",
    )
    return [(row["date"], row["precision"], row["n"]) for row in rows.to_pylist()]


def test_a_later_run_adds_late_images_and_rows_of_before_show_null(golden: GoldenPlaces) -> None:
    for number in range(50, 53):
        write_image(golden.images, key_of(number, DATES[1]), draw_image(number))
    done = score_here(config(golden, DATES[1], precision="fp16"))
    assert (str(done.run_id)[-4:], done.num_images, done.num_scored) == ("0003", 3, 3)
    assert by_runtime(golden.store) == [(DATES[0], None, 15), (DATES[1], "fp16", 3),
                                        (DATES[1], None, 11)]  # fmt: skip
    assert list(verify(golden.store)) == []
    summary = run_query(
        golden.store,
        f"SELECT sum(num_images) AS n FROM class_summaries WHERE date = '{DATES[1]}' "
        "AND class_name = 'band_1'",
    )
    assert summary.to_pylist() == [{"n": 14}]
    check_readers(golden.store)


def check_readers(store: Lake) -> None:
    """Readers of both kinds find old rows and new ones together, as the README asks them."""
    table = DeltaTable(store.uri("predictions"))
    for where, num in (
        (pc.field("precision").is_null(), 26),
        (pc.field("precision") == "fp16", 3),
        (pc.field("width") == 160, 29),
    ):
        assert table.to_pyarrow_table(filters=where).num_rows == num
    glob = f"{store.uri('predictions')}/*/*/*.parquet"
    rows = duckdb.sql(
        "SELECT precision, count(*) FROM read_parquet(?, hive_partitioning = true, "
        "union_by_name = true) GROUP BY 1 ORDER BY 1",
        params=[glob],
    )
    assert rows.fetchall() == [("fp16", 3), (None, 26)]
    scan = pl.scan_parquet(
        glob, hive_partitioning=True, missing_columns="insert", extra_columns="ignore"
    )
    assert scan.select("image_id").collect().height == 29
    assert len(pd.read_parquet(store.uri("predictions"))) == 29


def test_rows_of_before_are_replaced_and_their_neighbours_kept(golden: GoldenPlaces) -> None:
    before = neighbours(golden.store)
    write_image(golden.images, key_of(1, DATES[0]), draw_image(997), at=1_796_000_000)
    done = score_here(config(golden, DATES[0], rescore_changed=True))
    assert done.num_scored == 1
    assert by_runtime(golden.store) == [(DATES[0], "fp32", 1), (DATES[0], None, 14),
                                        (DATES[1], None, 11)]  # fmt: skip
    assert neighbours(golden.store) == before
    assert list(verify(golden.store)) == []


def neighbours(store: Lake) -> list[dict[str, object]]:
    sql = f"SELECT * FROM predictions WHERE image_key <> '{key_of(1, DATES[0])}' ORDER BY image_key"
    rows: list[dict[str, object]] = run_query(store, sql).to_pylist()
    return rows


def test_a_quarantined_image_of_before_is_tried_again(golden: GoldenPlaces) -> None:
    write_image(golden.images, key_of(5, DATES[1]), draw_image(5), at=1_796_000_000)
    done = score_here(config(golden, DATES[1], retry_quarantined=True))
    assert (done.num_scored, done.num_quarantined) == (1, 0)
    left = run_query(golden.store, "SELECT date::text AS date FROM quarantine").to_pylist()
    assert left == [{"date": DATES[0]}]
    assert list(verify(golden.store)) == []


def test_nothing_new_is_found_where_nothing_is(golden: GoldenPlaces) -> None:
    done = score_here(config(golden, DATES[0]))
    assert (done.num_images, done.run_id) == (0, None)
    assert done.engine == GOLDEN_ENGINE


def test_a_run_that_was_killed_is_resumed_with_the_receipts_it_has(golden: GoldenPlaces) -> None:
    draw_interrupted(golden.images)
    run_id = layout.run_id(GOLDEN_ENGINE, INTERRUPTED, 1)
    record = read_run(golden.store, run_id).record
    assert record is not None
    before = list(read_receipts(golden.store, run_id, record.plan_digest))
    assert 0 < len(before) < record.num_shards
    done = score_here(config(golden, INTERRUPTED, shard_images=1))
    assert (done.run_id, done.num_scored) == (run_id, NUM_IMAGES)
    assert done.num_resumed_images == len(before)
    assert list(verify(golden.store)) == []
    rows = run_query(
        golden.store, f"SELECT image_key, precision FROM predictions WHERE date = '{INTERRUPTED}'"
    )
    # What that build scored does not say by what; the rest was scored now.
    assert sorted(str(precision) for precision in rows["precision"].to_pylist()) == (
        ["None"] * len(before) + ["fp32"] * (NUM_IMAGES - len(before))
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_backfill_rechecks_old_dates_and_adds_a_new_one(golden: GoldenPlaces) -> None:
    new = "2026-11-23"
    for number in range(3):
        write_image(golden.images, key_of(number, new), draw_image(300 + number))
    write_image(golden.images, key_of(60, DATES[0]), draw_image(60))
    settings = config(golden, ALL_DATES)
    for expected in (
        {DATES[0]: "committed", DATES[1]: "done before", new: "committed"},
        dict.fromkeys((*DATES, new), "committed"),
    ):
        outcomes = backfill(settings, BackfillConfig(recheck=True), lambda _: None)
        assert {outcome.date: outcome.state for outcome in outcomes} == expected
        assert list(verify(golden.store)) == []
        assert by_runtime(golden.store) == [
            (DATES[0], "fp32", 1), (DATES[0], None, 15), (DATES[1], None, 11), (new, "fp32", 3)
        ]  # fmt: skip
