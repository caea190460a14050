"""A date scored end to end, on every kind of lake."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import s3fs
from deltalake import DeltaTable

from steel_batch import layout, schema
from steel_batch.config import ScoreConfig
from steel_batch.engine.contract import infer_all
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.lake import Lake
from steel_batch.registry.card import Card
from steel_batch.runs.events import read_events
from steel_batch.runs.record import RunResult
from tests.conftest import (
    DATE,
    KINDS_OF_LAKE,
    PATTERN,
    committed_rows,
    empty_lake,
    fill_lake,
    run_score,
    score_config,
)
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@dataclass(frozen=True)
class Scored:
    """A run over thirty images, which tests look at and leave as it is."""

    lake: Lake
    store: Lake
    config: ScoreConfig
    result: RunResult


@pytest.fixture(scope="module", params=KINDS_OF_LAKE)
def scored(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_engine: Path,
    ray_cluster: None,
) -> Scored:
    """The store is next to the images, and a part of their keys is a tag."""
    lake = empty_lake(request, tmp_path_factory.mktemp("scored"))
    fill_lake(Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url), num_images=30)
    store = Lake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)
    config = score_config(lake, store, tiny_engine, key_pattern=f"{{place}}/{PATTERN}")
    return Scored(lake, store, config, run_score(config))


def test_every_image_gets_one_row_and_a_second_run_adds_none(scored: Scored) -> None:
    result = scored.result
    assert (result.num_images, result.num_scored, result.num_quarantined) == (30, 30, 0)
    assert result.num_shards == 4
    assert result.committed
    rows = committed_rows(scored.store)
    assert [row["image_key"] for row in rows] == [
        f"images/line={1 + i % 2}/date={DATE}/im{i:05d}.png"
        for i in (*range(0, 30, 2), *range(1, 30, 2))
    ]
    assert {str(row["date"]) for row in rows} == {DATE}
    again = run_score(scored.config)
    assert again.run_id is None
    assert again.num_committed_before == 30
    assert committed_rows(scored.store) == rows


def test_rows_of_scoring_without_the_cluster_are_those_of_the_cluster(
    scored: Scored, tmp_path: Path
) -> None:
    """Tests rely on it whose claim is not about the cluster."""
    store = Lake(str(tmp_path / "store"))
    here = score_here(scored.config.replace(store=store.url))
    for table in layout.TABLES:
        assert committed_rows(store, table) == committed_rows(scored.store, table)
    assert (here.run_id, here.classes) == (scored.result.run_id, scored.result.classes)


def by_duckdb(store: Lake) -> list[dict[str, Any]]:
    with duckdb.connect() as con:
        if store.is_s3:
            con.register_filesystem(s3fs.S3FileSystem())
        found = con.sql(f"SELECT * FROM '{store.url}/predictions/engine=*/date=*/*.parquet'")
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def by_pandas(store: Lake) -> list[dict[str, Any]]:
    frame = pd.read_parquet(f"{store.url}/predictions")
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def by_polars(store: Lake) -> list[dict[str, Any]]:
    glob = f"{store.url}/predictions/*/*/*.parquet"
    return pl.scan_parquet(glob, hive_partitioning=True).collect().to_dicts()


def by_deltalake(store: Lake) -> list[dict[str, Any]]:
    options = {"AWS_ALLOW_HTTP": "true"} if store.is_s3 else None
    table = DeltaTable(f"{store.url}/predictions", storage_options=options)
    rows: list[dict[str, Any]] = table.to_pyarrow_table().to_pylist()
    return rows


def plain(value: Any) -> Any:
    """A reader's value without the reader's own types."""
    if isinstance(value, np.ndarray | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return str(value) if isinstance(value, datetime.date) else value


def pairs(tags: Any) -> dict[str, str]:
    """A map, which readers give as a dict, as pairs, or as structs of key and value."""
    items = tags.items() if isinstance(tags, dict) else tags
    return dict((tag["key"], tag["value"]) if isinstance(tag, dict) else tag for tag in items)


READERS = (by_duckdb, by_pandas, by_polars, by_deltalake)


def test_four_readers_see_the_same_rows(scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as the README has it: S3 is found by the environment."""
    store = scored.store
    if store.endpoint_url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    columns = {"engine", "date", *schema.PREDICTIONS.names}
    found = []
    for reader in READERS:
        rows = sorted(reader(store), key=lambda row: str(row["image_key"]))
        assert [set(row) for row in rows] == [columns] * 30
        found.append([plain({**row, "tags": pairs(row["tags"])}) for row in rows])
    for rows, reader in zip(found, READERS, strict=True):
        assert rows == found[0], reader.__name__
    assert {row["tags"]["place"] for row in found[0]} == {"images"}
    assert sum(len(row["defects"]) for row in found[0]) > 20


def test_rows_hold_exactly_the_masks_of_the_engine(scored: Scored, tiny_engine: Path) -> None:
    card = Card.from_json((tiny_engine / "card.json").read_bytes(), source="card")
    runtime = OrtRuntime(
        (tiny_engine / "model.onnx").read_bytes(), card, precision="fp32", batch_size=1,
        num_threads=1,
    )  # fmt: skip
    num_defects = 0
    for row in committed_rows(scored.store):
        data = scored.lake.read(str(row["image_key"]))
        image_HW = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image_HW is not None
        with runtime.acquire() as slot:
            slot.image_NHW[0] = image_HW
            output = infer_all(slot, 1)
        expected_HW = output.mask_NHW[0]
        found_HW = np.zeros_like(expected_HW)
        for defect in row["defects"]:  # type: ignore[attr-defined]
            numbers = [int(word) for word in defect["rle"].split()]
            flat = np.zeros(expected_HW.size, np.uint8)
            for start, length in zip(numbers[::2], numbers[1::2], strict=True):
                flat[start - 1 : start - 1 + length] = 1
            mask_HW = flat.reshape(expected_HW.shape, order="F")
            found_HW |= mask_HW << (defect["class_id"] - 1)
            ys, xs = np.nonzero(mask_HW)
            assert defect["area_px"] == mask_HW.sum()
            assert defect["bbox"] == {
                "x": xs.min(), "y": ys.min(), "w": np.ptp(xs) + 1, "h": np.ptp(ys) + 1,
            }  # fmt: skip
            assert defect["num_components"] == cv2.connectedComponents(mask_HW)[0] - 1
            num_defects += 1
        assert (found_HW == expected_HW).all()
        np.testing.assert_allclose(np.array(row["peak"]), output.peak_NC[0], rtol=1e-5)
    assert num_defects > 20


def test_files_have_the_schema_and_short_lines_share_a_row_group(scored: Scored) -> None:
    store, result = scored.store, scored.result
    (item,) = [i for i in store.list_objects("predictions/engine=") if "part-" in i.key]
    assert item.key.endswith(
        f"engine={result.engine}/date={DATE}/part-{result.run_id}-00000.parquet"
    )
    with store.open_input(item.key) as stream:
        file = pq.ParquetFile(stream)
        assert file.schema_arrow.equals(schema.PREDICTIONS)
        assert file.num_row_groups == 1
        column = file.metadata.row_group(0).column(file.schema_arrow.get_field_index("line"))
        assert (column.statistics.min, column.statistics.max) == ("1", "2")
        assert column.compression == "ZSTD"
        lines = file.read(["line"])["line"].to_pylist()
    assert lines == sorted(lines)


def test_what_was_staged_is_gone_and_what_happened_is_kept(scored: Scored) -> None:
    store, result = scored.store, scored.result
    names = [item.key.split("/", 2)[2] for item in store.list_objects(f"runs/{result.run_id}/")]
    assert sorted(n for n in names if not n.startswith("receipts/")) == [
        "events.jsonl", "files/class_summaries.json", "files/merged.json",
        "files/predictions.json", "files/quarantine.json", "plan.parquet", "result.json",
        "run.json",
    ]  # fmt: skip
    assert result.run_id is not None
    assert [event["event"] for event in read_events(store, result.run_id)] == [
        "attempt", "scored", "merged", "landed", "landed", "committed",
    ]  # fmt: skip
