"""Real labels and photographs, if they exist next to the checkout: `../shared/data`."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steel_batch.lake import Lake
from steel_batch.masks.rle import decode_rle
from training.dataset import open_dataset, split
from training.labels import read_labels
from training.metrics import Judged, evaluate

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images at {DATA}")


def test_both_formats_of_severstal_are_one_dataset() -> None:
    lake = Lake(str(DATA / "severstal" / "train_images"))
    split_format, joined_format = (
        open_dataset(lake, (DATA / "severstal" / name).read_bytes(), source=name, num_classes=4)
        for name in ("train.csv", "train_2019_format.csv")
    )
    assert split_format.digest == joined_format.digest
    assert (len(split_format), split_format.size) == (33, (256, 1600))
    assert split_format.num_masks == (3, 0, 11, 2)


def test_neu_seg_is_three_classes_of_small_squares() -> None:
    labels = (DATA / "neu_seg" / "train.csv").read_bytes()
    dataset = open_dataset(Lake(str(DATA / "neu_seg")), labels, source="train.csv")
    assert (len(dataset), dataset.num_classes, dataset.num_masks) == (898, 3, (361, 367, 361))
    assert (dataset.size, dataset.has_one_size) == ((200, 200), True)
    image_HW, bitmask_HW = dataset.load(0)
    assert image_HW.shape == bitmask_HW.shape == (200, 200)
    assert bitmask_HW.any()
    _, held_out = split(dataset, shares=[0.2], seed=0)
    assert all(abs(n - 0.2 * of) <= 4 for n, of in zip(held_out.num_masks, dataset.num_masks,
                                                       strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("step", "num_images", "num_masks"),
    [(12, 897, 413), pytest.param(1, 10_758, 5285, marks=pytest.mark.slow)],
)
def test_answering_nothing_scores_what_is_computed_by_hand(
    step: int, num_images: int, num_masks: int
) -> None:
    """A mask that is not empty scores 0, an empty one 1; how many there are was counted apart."""
    with gzip.open(DATA / "severstal" / "labels_10758.csv.gz") as file:
        labels = file.read()
    names = sorted({line.rpartition("_")[0] for line in labels.decode().splitlines()[1:]})
    sizes = dict.fromkeys(names, (256, 1600))
    masks = read_labels(labels, source="labels", sizes=sizes, num_classes=4)
    nothing_HW = np.zeros((256, 1600), np.uint8)

    def judged() -> Iterator[Judged]:
        for name in names[::step]:
            truth_HW = nothing_HW.copy()
            for class_id, rle in masks.get(name, {}).items():
                truth_HW |= decode_rle(rle, 256, 1600) << np.uint8(class_id - 1)
            yield Judged(predicted_HW=nothing_HW, truth_HW=truth_HW)

    found = evaluate(judged(), 4)
    assert found.num_images == num_images
    assert found.kaggle_dice == pytest.approx(1 - num_masks / (4 * num_images), abs=1e-12)
    assert [c.present_dice for c in found.classes] == [0, 0, 0, 0]
    assert sum(c.num_present for c in found.classes) == num_masks
