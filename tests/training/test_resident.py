from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steel_batch.lake import Lake
from tests.training.bands import open_bands
from training.augment import AugmentConfig
from training.batches import Examples, Sampler
from training.dataset import Dataset
from training.lessons import Lessons, pack
from training.recipe import TrainConfig
from training.resident import ResidentCrops, fits


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_bands(Lake(str(tmp_path_factory.mktemp("bands"))), num_images=12)


def answers(dataset: Dataset) -> Lessons:
    shape = (2, *dataset.size)
    rng = np.random.default_rng(0)
    return Lessons(answers=[pack(rng.random(shape, np.float32)) for _ in dataset.examples],
                   shape_CHW=shape)  # fmt: skip


@pytest.mark.parametrize(
    ("augment", "crop_width", "greatest"),
    [
        ({}, 64, 0),
        ({}, 100, 0),
        ({"contrast": 0.3}, 64, 1),
        ({"noise": 6.0, "contrast": 0.3}, 64, 1),
        ({"mix_share": 0.5}, 64, 0),
        ({"zoom": 0.2, "rotate_degrees": 10.0}, 100, 5),
        ({"zoom": 0.3, "rotate_degrees": 30.0, "noise": 3.0, "mix_share": 0.5}, 64, 5),
    ],
)
def test_crops_made_on_the_device_are_those_that_threads_make(
    dataset: Dataset, augment: dict[str, Any], crop_width: int, greatest: int
) -> None:
    config = TrainConfig(augment=AugmentConfig(crop_width=crop_width, **augment), batch_size=16)
    examples = Examples(dataset, dataset.size, 1 << 30, answers(dataset))
    sampler = Sampler(examples, config, 0, 1)
    crops = ResidentCrops(examples, config, torch.device("cpu"), 2)
    for step in range(3):
        expected = sampler.make(step)
        made = crops.make(*crops.numbers(sampler.choose(step)))
        for layer, (one, other) in enumerate(zip(expected, made, strict=True)):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            apart = (one.int() - other.int()).abs()
            if layer == 0:  # OpenCV interpolates to a 32nd of a pixel
                assert apart.max() <= greatest
                assert apart.float().mean() < 0.3
            else:
                assert (apart > 0).float().mean() < (0.02 if "zoom" in augment else 1e-9)


def test_images_stay_where_they_are_if_the_memory_of_the_gpu_is_short(dataset: Dataset) -> None:
    examples = Examples(dataset, dataset.size, 0)
    taught = Examples(dataset, dataset.size, 0, answers(dataset))
    assert fits(examples, int(examples.num_kept_bytes / 0.4) + 1)
    assert not fits(examples, int(examples.num_kept_bytes / 0.4) - 3)
    assert not fits(taught, int(examples.num_kept_bytes / 0.4) + 1)


def test_what_is_drawn_of_an_image_needs_no_second_reading(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = TrainConfig(augment=AugmentConfig(crop_width=64), batch_size=16)
    lake = Lake(str(tmp_path))
    copied = open_bands(lake, num_images=12)
    examples = Examples(copied, copied.size, 0)
    crops = ResidentCrops(examples, config, torch.device("cpu"), 2)
    lake.delete([example.key for example in copied.examples])
    sampler = Sampler(examples, config, 0, 1)
    (image, *_) = crops.make(*crops.numbers(sampler.choose(5)))
    expected = Sampler(Examples(dataset, dataset.size, 0), config, 0, 1).make(5)[0]
    assert torch.equal(image, expected)
