"""Three numbers say how an image looks, from a few of its rows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.images.appearance import FEWEST_ROWS, measure, row_step
from steel_batch.synthetic import render


@given(st.integers(1, 5000))
def test_each_image_gives_as_many_rows_and_enough_of_them(height: int) -> None:
    step = row_step(height)
    assert height % step == 0
    assert height // step >= min(height, FEWEST_ROWS)


@given(st.integers(1, 20), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_the_numbers_are_what_numpy_says(height: int, width: int, seed: int) -> None:
    sample_NHW = np.random.default_rng(seed).integers(0, 256, (2, height, width), np.uint8)
    wide_NHW = sample_NHW.astype(np.float64)
    steps_NHW = np.abs(np.diff(wide_NHW, axis=2))
    expected = [wide_NHW.mean((1, 2)), wide_NHW.std((1, 2)), steps_NHW.mean((1, 2))]
    np.testing.assert_allclose(measure(sample_NHW), np.stack(expected, axis=1), rtol=1e-5)


def test_a_column_of_pixels_has_no_sharpness() -> None:
    assert measure(np.full((1, 5, 1), 7, np.uint8)).tolist() == [[7.0, 0.0, 0.0]]


def test_no_images_have_no_numbers() -> None:
    assert measure(np.empty((0, 16, 32), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize("seed", range(3))
def test_light_and_blur_move_the_number_that_is_named_for_them(seed: int) -> None:
    strip_HW = render(seed, 5).image_HW
    step = row_step(strip_HW.shape[0])
    brighter_HW = cv2.convertScaleAbs(strip_HW, alpha=1.1)
    blurred_HW = cv2.GaussianBlur(strip_HW, (0, 0), 1.5)
    plain, brighter, blurred = measure(
        np.stack([strip_HW, brighter_HW, blurred_HW])[:, ::step]
    ).tolist()
    assert brighter[0] == pytest.approx(1.1 * plain[0], rel=0.02)
    assert blurred[0] == pytest.approx(plain[0], rel=0.01)
    assert blurred[2] < 0.7 * plain[2]
    assert brighter[2] > plain[2]


def test_some_rows_tell_what_all_rows_tell() -> None:
    strip_HW = render(1, 3).image_HW
    some = measure(strip_HW[None, :: row_step(strip_HW.shape[0])])
    np.testing.assert_allclose(some, measure(strip_HW[None]), rtol=0.1)
