"""`show`: pictures of what was found, of the images that were scored and of no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steel_batch.lake import Lake
from steel_batch.masks.rle import decode_rle
from steel_batch.report.contact_sheet import COLORS_BGR
from steel_batch.tables.query import run_query
from tests.cli.command_line import Command, refused
from tests.conftest import DATE, band_image, fill_lake, new_bucket
from tests.scored_store import score_without_ray

NUM_IMAGES = 12
SIZE = (64, 160)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `images` and their `store`."""
    folder = tmp_path_factory.mktemp("scored")
    images = Lake(str(folder / "images"))
    fill_lake(images, num_images=NUM_IMAGES)
    score_without_ray(images, Lake(str(folder / "store")))
    return folder


@pytest.fixture
def show(steel_batch: Command, scored: Path, tmp_path: Path) -> Callable[..., Any]:
    return lambda *flags: steel_batch(
        "show", "--store", scored / "store", "--out", tmp_path / "out", *flags
    )


def rows(scored: Path) -> dict[str, dict[str, Any]]:
    found = run_query(Lake(str(scored / "store")), "FROM predictions").to_pylist()
    return {row["image_key"]: row for row in found}


def read_png(path: Path) -> np.ndarray:
    picture_HWC = cv2.imread(str(path))
    assert picture_HWC is not None
    return picture_HWC


def test_an_overlay_is_the_image_with_the_outlines_of_its_masks(
    show: Callable[..., Any], scored: Path, tmp_path: Path
) -> None:
    assert show("--overlays", "--output", "json").json == {
        "images": NUM_IMAGES, "out": str(tmp_path / "out")
    }  # fmt: skip
    num_outlined = 0
    for key, row in rows(scored).items():
        picture_HWC = read_png(tmp_path / "out" / f"{key}.png")
        image_HW = band_image(int(row["image_id"].removeprefix("im")))
        assert picture_HWC.shape == (*SIZE, 3)
        near_HW = np.zeros(SIZE, bool)
        for defect in row["defects"]:
            mask_HW = decode_rle(defect["rle"], *SIZE)
            near_HW |= cv2.dilate(mask_HW, np.ones((7, 7), np.uint8)) > 0
            color = COLORS_BGR[defect["class_id"] - 1]
            num_outlined += (picture_HWC == color).all(axis=2).any()
        assert (picture_HWC[~near_HW] == image_HW[~near_HW][:, None]).all()
    assert num_outlined > NUM_IMAGES / 2


def test_a_sheet_has_the_images_that_sql_asks_for_in_its_order(
    show: Callable[..., Any], scored: Path, tmp_path: Path
) -> None:
    sql = "SELECT image_key FROM defects WHERE class_name = 'band_1' ORDER BY area_px DESC"
    done = show("--query", sql, "--limit", "3")
    assert done.code == 0, done
    sheet_HWC = read_png(tmp_path / "out")
    assert sheet_HWC.shape == (3 * (22 + 512 + 10), 1280, 3)
    of_class = {
        key: sum(d["area_px"] for d in row["defects"] if d["class_id"] == 1)
        for key, row in rows(scored).items()
    }
    largest = sorted(of_class, key=of_class.__getitem__, reverse=True)[:3]
    for place, key in enumerate(largest):
        image_HW = band_image(int(key[-9:-4]))
        expected_HW = cv2.resize(image_HW, (1280, 512), interpolation=cv2.INTER_AREA)
        shown_HWC = sheet_HWC[place * 544 + 22 :][:512]
        is_gray_HW = (shown_HWC == shown_HWC[:, :, :1]).all(axis=2)
        assert is_gray_HW.mean() > 0.8
        assert (shown_HWC[is_gray_HW][:, 0] == expected_HW[is_gray_HW]).mean() > 0.99


@pytest.mark.s3
def test_images_and_store_may_lie_in_a_bucket(
    steel_batch: Command, scored: Path, s3_endpoint: str, tmp_path: Path
) -> None:
    bucket = new_bucket(s3_endpoint)
    for name in ("images", "store"):
        folder, copy = Lake(str(scored / name)), Lake(f"{bucket}/{name}", endpoint_url=s3_endpoint)
        for item in folder.list_objects():
            copy.write(item.key, folder.read(item.key))
    done = steel_batch(
        "show", "--store", f"{bucket}/store", "--endpoint-url", s3_endpoint,
        "--images", f"{bucket}/images", "--out", tmp_path / "bucket", "--overlays",
    )  # fmt: skip
    assert done.code == 0, done
    done = steel_batch(
        "show", "--store", scored / "store", "--out", tmp_path / "folder", "--overlays"
    )
    assert done.code == 0, done
    found = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*.png")
        }
        for name in ("bucket", "folder")
    }
    assert len(found["folder"]) == NUM_IMAGES
    assert found["bucket"] == found["folder"]


def delete(image: Path) -> None:
    image.unlink()


def cut(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-40])


def replace_by_another_size(image: Path) -> None:
    num_bytes = image.stat().st_size
    _, png = cv2.imencode(".png", np.zeros((32, 32), np.uint8))
    image.write_bytes(png.tobytes().ljust(num_bytes, b"\0"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [(delete, "is not there"), (cut, "when it was scored"), (replace_by_another_size, "32×32")],
)
def test_an_image_that_is_not_what_was_scored_ends_the_command(
    show: Callable[..., Any], scored: Path, tmp_path: Path, change: Callable[[Path], None],
    expected: str,
) -> None:  # fmt: skip
    shutil.copytree(scored / "images", tmp_path / "images")
    key = f"line=1/date={DATE}/im00004.png"
    change(tmp_path / "images" / key)
    for kind in ((), ("--overlays",)):
        text = refused(show("--images", tmp_path / "images", *kind))
        assert f"image {key} cannot be shown" in text
        assert not (tmp_path / "out").exists()
    assert expected in text


def test_what_is_there_is_not_written_over(show: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("years of work")
    for kind in ((), ("--overlays",)):
        assert "exists" in refused(show(*kind))
    assert (tmp_path / "out").read_text() == "years of work"


def test_a_sheet_that_nobody_can_look_at_is_refused(show: Callable[..., Any]) -> None:
    assert "--overlays for more" in refused(show("--limit", "501"))


def test_a_run_without_its_record_is_named(
    steel_batch: Command, scored: Path, tmp_path: Path
) -> None:
    shutil.copytree(scored / "store", tmp_path / "store")
    (record,) = (tmp_path / "store" / "runs").rglob("run.json")
    record.unlink()
    done = steel_batch("show", "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert f"the record of run {record.parent.name} is not in" in refused(done)
