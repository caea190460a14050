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
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.errors import ConfigError, PlanMismatchError, TooManyBadImagesError
from steel_batch.lake import Lake
from steel_batch.registry.card import Card
from steel_batch.runs.events import read_events
from steel_batch.runs.record import RunResult
from steel_batch.tables.verify import verify
from tests.conftest import (
    DATE,
    KINDS_OF_LAKE,
    PATTERN,
    band_image,
    committed_rows,
    empty_lake,
    fill_lake,
    png,
    run_score,
    score_config,
)
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def images(lake: Lake, tmp_path: Path) -> Lake:
    """Thirty images on two lines."""
    place = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    fill_lake(place, num_images=30)
    return place


@pytest.fixture
def store(lake: Lake) -> Lake:
    return Lake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)


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


@pytest.mark.quick("folder")
def test_late_images_are_added_and_the_summary_covers_both_runs(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(images, store, tiny_engine)
    score_here(config)
    images.write(f"line=3/date={DATE}/late.png", png(band_image(1)))
    late = score_here(config)
    assert (late.num_images, late.num_committed_before) == (1, 30)
    assert len(committed_rows(store)) == 31
    summaries = committed_rows(store, "class_summaries")
    assert len(summaries) == 3 * 4
    assert {(row["line"], row["num_images"]) for row in summaries} == {
        ("1", 15),
        ("2", 15),
        ("3", 1),
    }
    names = [i.key for i in store.list_objects("class_summaries/") if i.key.endswith(".parquet")]
    assert len(names) == 1


@pytest.mark.quick("folder")
def test_a_limit_scores_the_first_images_and_the_same_command_without_it_the_others(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(images, store, tiny_engine)
    tried = score_here(config.replace(max_images=10))
    assert (tried.num_images, tried.num_scored, tried.num_beyond_limit) == (10, 10, 20)
    first = [row["image_key"] for row in committed_rows(store)]
    assert first == sorted(item.key for item in images.list_objects("line=1/"))[:10]
    more = score_here(config.replace(max_images=10))
    assert (more.num_images, more.num_beyond_limit, more.num_committed_before) == (10, 10, 10)
    rest = score_here(config)
    assert (rest.num_images, rest.num_beyond_limit, rest.num_committed_before) == (10, 0, 20)
    assert len(committed_rows(store)) == 30
    assert list(verify(store)) == []


@pytest.mark.quick("folder")
def test_bad_images_are_quarantined_and_the_run_goes_on(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    bad = {
        f"line=1/date={DATE}/empty.png": b"",
        f"line=1/date={DATE}/page.png": b"<html>no image</html>",
        f"line=1/date={DATE}/small.png": png(np.zeros((8, 8), np.uint8)),
    }
    for key, data in bad.items():
        images.write(key, data)
    with pytest.raises(TooManyBadImagesError, match="--max-bad"):
        score_here(score_config(images, store, tiny_engine))
    assert committed_rows(store) == []
    result = score_here(score_config(images, store, tiny_engine, max_bad=0.2))
    assert (result.num_images, result.num_scored, result.num_quarantined) == (33, 30, 3)
    found = {row["image_key"]: row["error_code"] for row in committed_rows(store, "quarantine")}
    assert list(found) == sorted(bad)
    assert list(found.values()) == ["empty", "not_an_image", "wrong_size"]


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
            output = slot.infer(1)
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


@pytest.mark.quick("folder")
def test_an_unfinished_run_with_other_settings_is_not_continued(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    images.write(f"line=1/date={DATE}/empty.png", b"")
    with pytest.raises(TooManyBadImagesError):
        score_here(score_config(images, store, tiny_engine, max_bad=0.0))
    with pytest.raises(PlanMismatchError, match="shard_images was 8 and is now 4"):
        score_here(score_config(images, store, tiny_engine, shard_images=4, max_bad=0.5))
    result = score_here(
        score_config(images, store, tiny_engine, shard_images=4, max_bad=0.5, fresh=True)
    )
    assert result.run_id is not None
    assert result.run_id.endswith("-0002")
    assert result.num_scored == 30


@pytest.mark.quick("folder")
def test_a_changed_image_is_reported_and_scored_again_on_demand(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(images, store, tiny_engine, merge_bytes=1)
    score_here(config)
    before = committed_rows(store)
    key = f"line=1/date={DATE}/im00000.png"
    images.write(key, png(np.full((64, 160), 250, np.uint8)))
    images.write(f"line=1/date={DATE}/new.png", png(band_image(1)))
    added = score_here(config)
    assert (added.num_images, added.num_changed) == (1, 1)
    again = score_here(config.replace(rescore_changed=True))
    assert (again.num_images, again.num_scored, again.num_changed) == (1, 1, 1)
    after = {row["image_key"]: row for row in committed_rows(store)}
    assert len(after) == 31
    assert len(committed_rows(store)) == 31
    assert after[key]["defects"][0]["area_px"] > 10_000  # type: ignore[index]
    for row in before[1:]:
        assert after[row["image_key"]] == row
    live = [i.key for i in store.list_objects("predictions/engine=") if "part-" in i.key]
    with duckdb.connect() as con:
        if not store.is_s3:
            glob = f"{store.url}/predictions/*/*/*.parquet"
            assert con.sql(f"SELECT count(*) FROM '{glob}'").fetchall() == [(31,)]
    assert len(live) == 6


@pytest.mark.quick("folder")
def test_quarantined_images_can_be_tried_again(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    good, bad = f"line=1/date={DATE}/was_bad.png", f"line=1/date={DATE}/bad.png"
    images.write(good, b"half")
    images.write(bad, b"half")
    config = score_config(images, store, tiny_engine, max_bad=1)
    score_here(config)
    assert score_here(config).run_id is None
    again = score_here(config.replace(retry_quarantined=True, max_bad=0))
    assert (again.num_images, again.num_scored, again.num_quarantined) == (2, 0, 2)
    assert (again.num_retried, again.num_bad_again) == (2, 2)
    images.write(good, png(band_image(1)))
    result = score_here(config.replace(retry_quarantined=True, max_bad=0))
    assert (result.num_images, result.num_scored, result.num_quarantined) == (2, 1, 1)
    assert [row["image_key"] for row in committed_rows(store, "quarantine")] == [bad]
    assert len(committed_rows(store)) == 31
    assert list(verify(store)) == []


@pytest.mark.quick("folder")
def test_an_image_that_was_half_written_gets_its_row_when_it_is_whole(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    late, bad = f"line=1/date={DATE}/half.png", f"line=1/date={DATE}/bad.png"
    whole = png(band_image(1))
    images.write(late, whole[:-20])
    images.write(bad, b"half")
    config = score_config(images, store, tiny_engine, max_bad=0.1)
    assert score_here(config).num_quarantined == 2
    assert score_here(config).run_id is None
    images.write(late, whole)
    result = score_here(config)  # the same command, as `backfill --recheck` gives it
    assert (result.num_images, result.num_scored, result.num_retried) == (1, 1, 1)
    assert [row["image_key"] for row in committed_rows(store, "quarantine")] == [bad]
    assert len(committed_rows(store)) == 31
    assert score_here(config).run_id is None
    assert list(verify(store)) == []


@pytest.mark.quick("folder")
def test_max_bad_is_a_share_of_the_new_images(images: Lake, store: Lake, tiny_engine: Path) -> None:
    for number in range(3):
        images.write(f"line=1/date={DATE}/bad{number}.png", b"half")
    config = score_config(images, store, tiny_engine, max_bad=0.1)
    score_here(config)
    images.write(f"line=1/date={DATE}/new0.png", png(band_image(1)))
    images.write(f"line=1/date={DATE}/new1.png", b"half")
    retry = config.replace(retry_quarantined=True)
    with pytest.raises(TooManyBadImagesError, match="1 of 2 new images cannot be scored"):
        score_here(retry)
    result = score_here(retry.replace(max_bad=0.5))
    assert (result.num_images, result.num_retried, result.num_bad_again) == (5, 3, 3)
    assert len(committed_rows(store, "quarantine")) == 4


@pytest.mark.quick("folder")
def test_small_files_are_cut_by_size(images: Lake, store: Lake, tiny_engine: Path) -> None:
    score_here(score_config(images, store, tiny_engine, merge_bytes=1))
    names = [i.key for i in store.list_objects("predictions/engine=") if "part-" in i.key]
    assert len(names) == 4
    assert len(committed_rows(store)) == 30


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


def test_nothing_to_score_says_what_is_there(images: Lake, store: Lake, tiny_engine: Path) -> None:
    with pytest.raises(ConfigError, match=r"found for example 'line=1/date=2026-11-21/im"):
        score_here(score_config(images, store, tiny_engine, key_pattern="day/{image_id}.png"))
    with pytest.raises(ConfigError, match="2020-01-01"):
        score_here(score_config(images, store, tiny_engine, date="2020-01-01"))
    empty = Lake(f"{images.url}/nothing", endpoint_url=images.endpoint_url)
    with pytest.raises(ConfigError, match=r"no (objects under|folder)"):
        score_here(score_config(empty, store, tiny_engine))
