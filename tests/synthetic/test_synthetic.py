"""Synthetic strips: the same from a seed, with exact masks, and defects of the size of real ones.

Real labels are looked for beside the checkout: `../shared/data`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from steel_batch.config import RuntimeSettings
from steel_batch.engine.contract import infer_all
from steel_batch.engine.runtime import open_runtime
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine
from steel_batch.synthetic import CLASSES, HEIGHT, WIDTH, render
from steel_batch.synthetic.defects import choose_classes, draw_defect
from steel_batch.synthetic.writer import write_lake

REAL = Path(__file__).parents[3] / "shared" / "data" / "severstal" / "labels_10758.csv.gz"
needs_real_labels = pytest.mark.skipif(not REAL.exists(), reason=f"no real labels at {REAL}")


def real_areas() -> dict[str, dict[int, int]]:
    """Of every real image the area of each class that is on it, in pixels."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    with gzip.open(REAL, "rt") as file:
        for row in csv.DictReader(file):
            name, _, class_id = row["ImageId_ClassId"].rpartition("_")
            areas = found[name]
            if row["EncodedPixels"]:
                areas[int(class_id)] = sum(map(int, row["EncodedPixels"].split()[1::2]))
    return found


def write(folder: Path, *, num_processes: int) -> dict[str, str]:
    """The digests of a small lake's files."""
    write_lake(
        Lake(str(folder)), num_images=20, seed=5, lines=["1", "2"],
        dates=["2026-11-20", "2026-11-21"], num_processes=num_processes,
    )  # fmt: skip
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_seed_gives_the_same_files_in_one_process_and_in_two(tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", num_processes=1)
    assert alone == write(tmp_path / "together", num_processes=2)
    assert len(alone) == 21
    folders = Counter(name.rpartition("/")[0] for name in alone)
    assert folders == {
        "": 1,
        **{f"line={n}/date=2026-11-{day}": 5 for n in "12" for day in ("20", "21")},
    }


def test_labels_are_the_masks_and_every_image_is_a_strip_of_100_kb(tmp_path: Path) -> None:
    write(tmp_path, num_processes=2)
    masks: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((HEIGHT, WIDTH), np.uint8))
    with (tmp_path / "train.csv").open() as file:
        for row in csv.DictReader(file):
            flat = np.zeros(HEIGHT * WIDTH, np.uint8)
            numbers = [int(word) for word in row["EncodedPixels"].split()]
            for start, length in zip(numbers[::2], numbers[1::2], strict=True):
                flat[start - 1 : start - 1 + length] = 1 << (int(row["ClassId"]) - 1)
            masks[row["ImageId"]] |= flat.reshape((HEIGHT, WIDTH), order="F")
    sizes = []
    for index in range(20):
        (file_path,) = tmp_path.rglob(f"s0005_{index:07d}.jpg")
        strip = render(5, index)
        assert (masks[file_path.name] == strip.bitmask_HW).all()
        image_HW = cv2.imread(str(file_path), cv2.IMREAD_UNCHANGED)
        assert image_HW is not None
        assert image_HW.shape == (HEIGHT, WIDTH)
        assert np.abs(image_HW.astype(int) - strip.image_HW).mean() < 3
        sizes.append(file_path.stat().st_size)
    assert 50_000 < np.mean(sizes) < 150_000


def test_a_place_that_has_a_set_is_left_alone(tmp_path: Path) -> None:
    before = write(tmp_path, num_processes=1)
    with pytest.raises(ConfigError, match="so --out holds a set of images"):
        write(tmp_path, num_processes=1)
    assert {path.name for path in tmp_path.rglob("*.jpg")} == {
        Path(name).name for name in before if name != "train.csv"
    }


@needs_real_labels
def test_classes_are_as_frequent_as_on_real_strips() -> None:
    real = Counter(tuple(sorted(areas)) for areas in real_areas().values())
    rng = np.random.default_rng(5)
    made = Counter(choose_classes(rng) for _ in range(20_000))
    for classes, num in real.items():
        share = num / real.total()
        if share > 0.01:
            assert made[classes] / made.total() == pytest.approx(share, rel=0.15), classes
    assert 0.45 < made[()] / made.total() < 0.6


@needs_real_labels
@pytest.mark.parametrize("class_id", [1, 2, 3, 4], ids=CLASSES)
def test_half_of_the_defects_have_areas_of_the_middle_half_of_real_ones(class_id: int) -> None:
    real = [areas[class_id] for areas in real_areas().values() if class_id in areas]
    rng = np.random.default_rng(5)
    steel_HW = np.ones((HEIGHT, WIDTH), np.uint8)
    gray_HW = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    made = [int(draw_defect(rng, class_id, gray_HW.copy(), steel_HW).sum()) for _ in range(150)]
    low, high = np.percentile(real, [25, 75])
    inside = np.mean([low <= area <= high for area in made])
    assert 0.3 < inside < 0.8
    assert 1 / 2 < np.median(made) / np.median(real) < 2


def test_the_demo_engine_is_small() -> None:
    folder = Path(__file__).parents[2] / "steel_batch" / "demo_engine"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000


@pytest.mark.slow
def test_the_demo_engine_finds_each_class_on_strips_it_has_not_seen() -> None:
    """Present-only Dice per class of 300 strips of another seed; each class is on five or more."""
    runtime = open_runtime(
        load_engine("demo", store=None),
        RuntimeSettings(runtime="onnxruntime", precision="auto", batch_size=1),
    )
    dice: dict[int, list[float]] = defaultdict(list)
    with runtime.acquire() as slot:
        for index in range(300):
            strip = render(777, index)
            slot.image_NHW[0] = strip.image_HW
            found_HW = infer_all(slot, 1).mask_NHW[0]
            for bit in range(len(CLASSES)):
                true, found = strip.bitmask_HW >> bit & 1, found_HW >> bit & 1
                if true.any():
                    dice[bit].append(2 * (true & found).sum() / (true.sum() + found.sum()))
    assert sorted(dice) == [0, 1, 2, 3]
    assert min(len(values) for values in dice.values()) >= 5
    means = {CLASSES[bit]: float(np.mean(values)) for bit, values in dice.items()}
    assert min(means.values()) >= 0.80, means
