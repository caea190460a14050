from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from training.augment import AugmentConfig, crop, draw_rectangle, paste

STILL = AugmentConfig(crop_width=64, gain=0, shift=0, defect_share=1)


def square(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image_HW = rng.integers(0, 256, (48, 48)).astype(np.uint8)
    return image_HW, (image_HW > 200).astype(np.uint8)


def test_square_crops_are_turned_in_all_eight_ways() -> None:
    image_HW, bitmask_HW = square(0)
    seen = set()
    for seed in range(200):
        varied_HW, mask_HW = crop(image_HW, bitmask_HW, STILL, np.random.default_rng(seed))
        np.testing.assert_array_equal(mask_HW, varied_HW > 200)
        seen.add(varied_HW.tobytes())
    assert len(seen) == 8


def test_crops_stay_as_they_lie_where_direction_matters() -> None:
    config = dataclasses.replace(STILL, mirror=False, transpose=False)
    image_HW, bitmask_HW = square(0)
    for seed in range(20):
        varied_HW, mask_HW = crop(image_HW, bitmask_HW, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(varied_HW, image_HW)
        np.testing.assert_array_equal(mask_HW, bitmask_HW)


def test_wide_crops_are_only_mirrored() -> None:
    image_HW, bitmask_HW = (pixels[:32] for pixels in square(0))
    found = [crop(image_HW, bitmask_HW, STILL, np.random.default_rng(s)) for s in range(100)]
    assert {image.shape for image, _ in found} == {(32, 48)}
    assert len({image.tobytes() for image, _ in found}) == 4


def test_crops_of_images_with_defects_hold_some() -> None:
    image_HW = np.zeros((16, 1600), np.uint8)
    bitmask_HW = np.zeros_like(image_HW)
    bitmask_HW[3:6, 700:720] = 2
    config = AugmentConfig(crop_width=128, defect_share=1)
    masks = [crop(image_HW, bitmask_HW, config, np.random.default_rng(s))[1] for s in range(50)]
    assert all(mask.shape == (16, 128) for mask in masks)
    assert sum(mask.any() for mask in masks) == 50


def test_noise_is_as_strong_as_is_said_and_takes_no_side() -> None:
    image_HW = np.full((64, 64), 128, np.uint8)
    config = AugmentConfig(crop_width=64, gain=0, shift=0, noise=20)
    rngs = (np.random.default_rng(seed) for seed in range(300))
    errors = [crop(image_HW, image_HW, config, rng)[0].astype(float) - 128 for rng in rngs]
    assert abs(np.mean([error.mean() for error in errors])) < 0.6  # fractions are cut off
    deviations = [error.std() for error in errors]
    assert 0 <= min(deviations) < 2 < 18 < max(deviations) < 21
    assert np.mean(deviations) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("change", ["gain", "shift", "contrast", "noise", "zoom", "rotate_degrees"])
def test_each_variation_changes_pixels_and_keeps_masks_binary(change: str) -> None:
    image_HW, bitmask_HW = square(1)
    values: dict[str, Any] = {"gain": 0.3, "shift": 20, "contrast": 0.4, "noise": 8, "zoom": 0.3,
              "rotate_degrees": 20}  # fmt: skip
    config = AugmentConfig(**({"gain": 0, "shift": 0} | {change: values[change]}))
    varied_HW, mask_HW = crop(image_HW, bitmask_HW, config, np.random.default_rng(3))
    plain = AugmentConfig(gain=0, shift=0)
    turned = [crop(image_HW, bitmask_HW, plain, np.random.default_rng(s))[0] for s in range(100)]
    assert not any(np.array_equal(varied_HW, other_HW) for other_HW in turned)
    assert varied_HW.dtype == mask_HW.dtype == np.uint8
    assert set(np.unique(mask_HW)) <= {0, 1}


def test_the_same_generator_gives_the_same_crop() -> None:
    config = AugmentConfig(crop_width=20, contrast=0.3, noise=5, zoom=0.2, rotate_degrees=10)
    first, second = (crop(*square(2), config, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_pasted_rectangle_brings_its_mask_and_changes_neither_crop() -> None:
    one, other = square(3), square(4)
    before = [pixels_HW.copy() for pixels_HW in (*one, *other)]
    places = set()
    for seed in range(20):
        image_HW, bitmask_HW = paste(
            one, other, draw_rectangle((48, 48), np.random.default_rng(seed))
        )
        is_other_HW = image_HW != one[0]
        rows, columns = (np.flatnonzero(is_other_HW.any(axis)) for axis in (1, 0))
        place = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        expected_HW = [pixels_HW.copy() for pixels_HW in one]
        for k in range(2):
            expected_HW[k][place] = other[k][place]
        np.testing.assert_array_equal(image_HW, expected_HW[0])
        assert np.count_nonzero(bitmask_HW != expected_HW[1]) == 0
        places.add(str(place))
    assert len(places) > 15
    for pixels_HW, kept_HW in zip((*one, *other), before, strict=True):
        np.testing.assert_array_equal(pixels_HW, kept_HW)
