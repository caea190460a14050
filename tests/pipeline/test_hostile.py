"""A run over good images with one of each hostile kind among them loses none, and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile import write_hostile
from steel_batch.lake import Lake
from steel_batch.tables.verify import verify
from tests import hostile
from tests.conftest import DATE, band_image, committed_rows, png, run_score, score_config
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PATTERN = "line={line}/date={date}/{image_id}.jpg"


def codes(store: Lake) -> dict[str, str]:
    return {
        Path(str(row["image_key"])).stem: str(row["error_code"])
        for row in committed_rows(store, "quarantine")
    }


def fill(lake: Lake, num: int) -> None:
    folder = Path(lake.url) / "line=1" / f"date={DATE}"
    folder.mkdir(parents=True)
    for i in range(num):
        (folder / f"im{i:05}.jpg").write_bytes(png(band_image(i)))


@pytest.mark.parametrize("num", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_hostile_images_cost_themselves(tmp_path: Path, tiny_engine: Path, num: int) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill(images, num)
    expected = write_hostile(tmp_path / "images" / "line=2" / f"date={DATE}")
    del expected["hostile_jpeg_of_lists"]  # which is an image of the engine's size
    result = run_score(
        score_config(images, store, tiny_engine, key_pattern=PATTERN, max_bad=0.5, shard_images=64)
    )
    assert result.num_scored == num + 1
    assert codes(store) == expected
    assert list(verify(store)) == []


def test_a_hostile_row_group_costs_itself(tmp_path: Path, tiny_engine: Path) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    good = hostile.parquet_of({"image": [png(band_image(i)) for i in range(20)]})
    images.write(f"date={DATE}/good.parquet", good)
    images.write(f"date={DATE}/zeros.parquet", hostile.parquet_of_zeros())
    images.write(f"date={DATE}/numbers.parquet", hostile.parquet_of_numbers())
    result = score_here(
        score_config(images, store, tiny_engine, key_pattern="date={date}/*.parquet", max_bad=0.5)
    )
    assert result.num_scored == 20
    assert set(codes(store).values()) == {"too_large"}
