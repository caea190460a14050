"""Exports are read back by other programs, and by code of our own, to the same masks."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from steel_batch import layout, schema
from steel_batch.answers.open_store import OpenStore
from steel_batch.exports.png import safe_path
from steel_batch.lake import Lake
from steel_batch.masks.defects import describe_defects
from steel_batch.masks.rle import decode_rle
from steel_batch.registry.card import PostProcess
from steel_batch.tables.commit import land
from steel_batch.tables.merge import write_file
from steel_batch.tables.summary import FIELDS, summarize
from steel_batch.tables.table_log import ensure_tables
from tests.cli.command_line import Command, refused
from tests.conftest import new_bucket
from tests.made_up_run import CLASSES, ENGINE, made_up_row, rows_table

DATE = "2026-11-21"
RUN = layout.run_id(ENGINE, DATE, 1)
Masks = dict[tuple[str, int], np.ndarray]
"""By key of the image and class."""


def scribble(rng: random.Random, height: int, width: int) -> np.ndarray:
    """A bitmask of a few blobs of each class, which overlap and reach the edges."""
    mask_HW = np.zeros((height, width), np.uint8)
    for bit in range(len(CLASSES)):
        layer_HW = np.zeros((height, width), np.uint8)
        for _ in range(rng.choice([0, 0, 1, 3])):
            centre = rng.randrange(width), rng.randrange(height)
            cv2.circle(layer_HW, centre, rng.randint(0, 9), 1, rng.choice([-1, 1]))
        mask_HW |= layer_HW << bit
    return mask_HW


def key_of(number: int) -> str:
    names = [
        "im,{}.jpg",
        'im"{}".jpg',
        "ïm {}.jpg",
        "../im{}.jpg",
        "a//im{}.jpg",
        "t.tar#x/im{}.jpg",
    ]
    return f"line={number % 2}/{names[number % len(names)].format(number)}"


def real_row(number: int, rng: random.Random) -> dict[str, Any]:
    """A row whose defects are those of a mask."""
    row = made_up_row(key_of(number), RUN)
    height, width = rng.choice([(64, 160), (33, 47)])
    post = PostProcess(min_area_px=(0,) * 4, min_component_px=(0,) * 4)
    found = describe_defects(
        [scribble(rng, height, width)], np.full((1, 4), 0.75, np.float32),
        np.ones((1, 4), np.float32), post, engine_px=height * width,
    )[0].as_py()  # fmt: skip
    return row | {
        "line": str(number % 2), "height": height, "width": width, "defects": found,
        "has_defect": bool(found),
    }  # fmt: skip


def write(store: Lake, table: str, rows: list[pa.Table], fields: pa.Schema) -> None:
    file = write_file(
        store, fields, rows, merged=layout.merged_file(RUN, table, 0),
        target=layout.table_file(table, ENGINE, DATE, RUN, 0),
    )  # fmt: skip
    land(store, table, RUN, [file])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of images with masks, odd keys and two sizes."""
    folder = tmp_path_factory.mktemp("exported") / "store"
    lake, rng = Lake(str(folder)), random.Random(7)
    ensure_tables(lake)
    rows = rows_table([real_row(number, rng) for number in range(40)])
    write(lake, layout.PREDICTIONS, [rows], schema.PREDICTIONS)
    short = rows.select(["line", "has_defect", "peak"]).append_column(
        FIELDS.field("defects"),
        pa.array(
            [[{n: d[n] for n in ("class_id", "area_px", "num_components")} for d in defects]
             for defects in rows["defects"].to_pylist()], FIELDS.field("defects").type),
    )  # fmt: skip
    summary = summarize(short.to_batches(), CLASSES, RUN)
    write(lake, layout.CLASS_SUMMARIES, [summary], schema.CLASS_SUMMARIES)
    return folder


@pytest.fixture(scope="module")
def expected(store: Path) -> tuple[set[str], Masks]:
    """Every image's key, and the masks of the rows."""
    with OpenStore(Lake(str(store))) as opened:
        images = opened.sql("SELECT image_key FROM predictions").fetchall()
        masks = opened.sql(
            "SELECT image_key, class_id, decode_from.rle, height, width FROM "
            "(SELECT *, struct_pack(rle := rle) AS decode_from FROM defects)"
        ).fetchall()
    return {key for (key,) in images}, {(k, c): decode_rle(r, h, w) for k, c, r, h, w in masks}


@pytest.fixture
def export(steel_batch: Command, store: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(kind: str, *flags: str) -> Path:
        out = tmp_path / f"{kind}-out"
        done = steel_batch("export", "--store", store, "--format", kind, "--out", out, *flags)
        assert done.code == 0, done
        return out

    return run


def assert_same(found: Masks, expected: Masks) -> None:
    assert set(found) == set(expected)
    assert len(found) > 40
    for name, mask_HW in expected.items():
        assert found[name].shape == mask_HW.shape
        assert (found[name] == mask_HW).all(), name


def coco_api(package: str) -> tuple[Any, Any]:
    """The reader and the decoder of one of two libraries."""
    if package == "pycocotools":
        return (
            pytest.importorskip("pycocotools.coco").COCO,
            pytest.importorskip("pycocotools.mask").decode,
        )
    faster = pytest.importorskip("faster_coco_eval")
    return faster.COCO, faster.mask.decode


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("package", ["pycocotools", "faster_coco_eval"])
@pytest.mark.parametrize("kind", ["coco", "cvat", "fiftyone"])
def test_readers_of_coco_find_the_same_masks(
    export: Callable[..., Path], expected: tuple[set[str], Masks], kind: str, package: str
) -> None:
    path = export(kind)
    path = {
        "cvat": path / "annotations/instances_default.json",
        "fiftyone": path / "labels.json",
    }.get(kind, path)
    reader, decode = coco_api(package)
    coco = reader(str(path))
    names = {number: image["file_name"] for number, image in coco.imgs.items()}
    assert set(names.values()) == expected[0]
    found = {}
    for number, annotation in coco.anns.items():
        key = names[annotation["image_id"]]
        rle = coco.annToRLE(annotation)
        mask_HW = np.asarray(decode(rle))
        found[key, annotation["category_id"]] = mask_HW
        assert annotation["area"] == mask_HW.sum()
        ys, xs = np.nonzero(mask_HW)
        assert annotation["bbox"] == [
            xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
        ]  # fmt: skip
        assert annotation["id"] == number
    assert_same(found, expected[1])
    categories = {number: entry["name"] for number, entry in coco.cats.items()}
    assert categories == dict(enumerate(CLASSES, 1))


@pytest.mark.s3
def test_an_export_of_a_bucket_is_that_of_a_folder(
    steel_batch: Command, store: Path, s3_endpoint: str, tmp_path: Path
) -> None:
    folder, bucket = Lake(str(store)), f"{new_bucket(s3_endpoint)}/some/prefix"
    copy = Lake(bucket, endpoint_url=s3_endpoint)
    for item in folder.list_objects():
        copy.write(item.key, folder.read(item.key))
    places = {
        "folder": ["--store", folder.url],
        "bucket": ["--store", bucket, "--endpoint-url", s3_endpoint],
    }
    for kind in ("kaggle", "coco", "cvat", "png", "fiftyone"):
        found = {}
        for name, flags in places.items():
            out = tmp_path / f"{kind}-{name}"
            done = steel_batch(
                "export", *flags, "--format", kind, "--out", out,
                "--query", "SELECT image_key FROM predictions ORDER BY image_key",
            )  # fmt: skip
            assert done.code == 0, done
            files = [path for path in (out, *out.rglob("*")) if path.is_file()]
            found[name] = {str(path.relative_to(out)): path.read_bytes() for path in files}
        assert found["bucket"] == found["folder"]
        assert sum(map(len, found["folder"].values())) > 2000


def test_coco_is_plain_json_with_texts_for_counts(export: Callable[..., Path]) -> None:
    document = json.loads(export("coco").read_text())
    assert all(isinstance(a["segmentation"]["counts"], str) for a in document["annotations"])
    assert all(a["iscrowd"] == 0 for a in document["annotations"])
    cvat = json.loads((export("cvat") / "annotations/instances_default.json").read_text())
    assert all(isinstance(a["segmentation"]["counts"], list) for a in cvat["annotations"])


@pytest.mark.parametrize("kaggle_layout", ["split", "joined"])
def test_training_reads_both_kaggle_layouts(
    export: Callable[..., Path], expected: tuple[set[str], Masks], kaggle_layout: str
) -> None:
    labels = pytest.importorskip("training.labels")
    data = export("kaggle", "--kaggle-layout", kaggle_layout, "--names", "key").read_bytes()
    shapes = {key: mask_HW.shape for (key, _), mask_HW in expected[1].items()}
    sizes = {key: shapes.get(key, (64, 160)) for key in expected[0]}
    read = labels.read_labels(data, source="export", sizes=sizes, num_classes=4)
    found = {
        (key, number): decode_rle(rle, *sizes[key])
        for key, masks in read.items()
        for number, rle in masks.items()
    }
    assert_same(found, expected[1])
    rows = list(csv.reader(data.decode().splitlines()))
    if kaggle_layout == "joined":
        assert len(rows) == 1 + 4 * len(expected[0])
    assert all(len(row) == len(rows[0]) for row in rows)


def test_kaggle_names_images_by_their_files(export: Callable[..., Path]) -> None:
    rows = list(csv.DictReader(export("kaggle").read_text().splitlines()))
    names = {row["ImageId"] for row in rows}
    assert names <= {key_of(number).rpartition("#")[2].rpartition("/")[2] for number in range(40)}
    assert len(names) > 20


def test_masks_as_png_stay_in_their_folder(
    export: Callable[..., Path], expected: tuple[set[str], Masks], tmp_path: Path
) -> None:
    folder = export("png")
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        index = list(csv.DictReader(file))
    assert {row["image"] for row in index} == expected[0]
    found: Masks = {}
    for row in index:
        for number, name in enumerate(CLASSES, 1):
            if row[name]:
                path = folder / row[name]
                assert path.resolve().is_relative_to(folder.resolve())
                pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.uint8)
                assert set(np.unique(pixels)) <= {0, 255}
                found[row["image"], number] = pixels // 255
    assert_same(found, expected[1])
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/x",
        "a/../b",
        ".",
        "..",
        "...",
        "",
        "a//b",
        "a\0b",
        "a\nb",
        "%2E",
        "ä",
        "n" * 250 + ".jpg",
        "ä" * 200,
        "." * 100,
        "\n" * 200 + "/" + "m" * 1000,
    ],
)
def test_any_name_is_a_path_below_its_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{safe_path(name)}.png"
    assert path.resolve().is_relative_to(tmp_path)
    assert path.resolve() != tmp_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_different_names_are_different_paths() -> None:
    names = [".", "..", "%2E", "%", "", "/", "a", "a/", "a/.", "%%2E", "...", "%2E%2E", "A", "a\n"]
    names += [letter * length for letter in ("n", "ä", ".") for length in range(80, 260)]
    names += ["n" * 250 + end for end in (".jpg", ".png", "~", "~0")]
    assert len({safe_path(name) for name in names}) == len(names)


def test_a_name_of_usual_length_is_not_shortened() -> None:
    assert safe_path("n" * 251) == "n" * 251
    assert safe_path("n" * 252).startswith("n" * 218 + "~")


def test_nothing_is_left_of_an_export_that_fails(
    steel_batch: Command, store: Path, tmp_path: Path
) -> None:
    for kind in ("kaggle", "png", "cvat"):
        flags = ["--store", store, "--format", kind, "--out", tmp_path / "out"]
        fails = ["--where", "error('no') IS NULL"]
        assert "cannot be answered" in refused(steel_batch("export", *flags, *fails))
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    assert "exists" in refused(steel_batch("export", *flags))
