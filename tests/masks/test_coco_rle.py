"""COCO's run-lengths are what pycocotools and faster-coco-eval take for the same mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steel_batch.masks.coco_rle import coco_counts, compress_counts
from steel_batch.masks.rle import encode_rle, parse_rle

MASKS_HW = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
                      elements=st.integers(0, 1))  # fmt: skip


def compressed(mask_HW: np.ndarray) -> str:
    runs = parse_rle(encode_rle(mask_HW), mask_HW.size)
    return compress_counts(coco_counts(runs, mask_HW.size))


def decoded(text: str, height: int, width: int) -> np.ndarray:
    """By the format's description, one character at a time."""
    counts: list[int] = []
    number = shift = 0
    for character in text.encode():
        group = character - 48
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).astype(np.uint8).reshape(width, height).T


@given(MASKS_HW)
def test_a_compressed_mask_is_the_same_mask_to_a_reader_of_our_own(mask_HW: np.ndarray) -> None:
    assert (decoded(compressed(mask_HW), *mask_HW.shape) == mask_HW).all()


@given(MASKS_HW)
def test_the_text_is_that_of_pycocotools(mask_HW: np.ndarray) -> None:
    pycocotools = pytest.importorskip("pycocotools.mask")
    assert compressed(mask_HW) == pycocotools.encode(np.asfortranarray(mask_HW))["counts"].decode()


def test_large_images_take_long_numbers() -> None:
    pycocotools = pytest.importorskip("pycocotools.mask")
    for height, width in ((1, 1), (256, 1600), (4096, 9000)):
        for pixels in (
            [],
            [0],
            [height * width - 1],
            [0, height * width - 1],
            [height * width // 2],
        ):
            flat = np.zeros(height * width, np.uint8)
            flat[pixels] = 1
            mask_HW = flat.reshape(width, height).T
            text = pycocotools.encode(np.asfortranarray(mask_HW))["counts"].decode()
            assert compressed(mask_HW) == text


def test_runs_that_touch_are_one_stretch() -> None:
    for text in ("1 2 3 4", "1 6", "1 1 2 1 3 1 4 3"):
        assert coco_counts(parse_rle(text, 10), 10).tolist() == [0, 6, 4]
    assert coco_counts(parse_rle("", 10), 10).tolist() == [10]
    assert coco_counts(parse_rle("6 5", 10), 10).tolist() == [5, 5]
