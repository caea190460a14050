"""Run-lengths against code that shares nothing with ours: plain loops, and pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steel_batch.errors import MaskError
from steel_batch.masks.rle import decode_rle, encode_rle, encode_runs, find_runs, parse_rle
from steel_batch.synthetic import render
from tests.conftest import examples

Mask = npt.NDArray[np.uint8]


def plain_rle(mask_HW: Mask) -> str:
    """What the Severstal format says, pixel by pixel."""
    height, width = mask_HW.shape
    pairs: list[int] = []
    inside = False
    for x in range(width):
        for y in range(height):
            if mask_HW[y, x]:
                if inside:
                    pairs[-1] += 1
                else:
                    pairs += [x * height + y + 1, 1]
            inside = bool(mask_HW[y, x])
    return " ".join(str(number) for number in pairs)


def plain_mask(rle: str, height: int, width: int) -> Mask:
    mask_HW = np.zeros((height, width), np.uint8)
    numbers = [int(word) for word in rle.split()]
    for i in range(0, len(numbers), 2):
        for pixel in range(numbers[i] - 1, numbers[i] - 1 + numbers[i + 1]):
            mask_HW[pixel % height, pixel // height] = 1
    return mask_HW


SIZES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)


@st.composite
def bitmasks(draw: st.DrawFn) -> tuple[Mask, int]:
    """A bitmask of one to eight classes; noise, blocks, or both, and often empty columns."""
    num_classes = draw(st.integers(1, 8))
    height, width = draw(SIZES)
    values = st.integers(0, 2**num_classes - 1)
    mask_HW = draw(hnp.arrays(np.uint8, (height, width), elements=values, fill=st.just(0)))
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        block = np.s_[y : y + draw(st.integers(1, height)), x : x + draw(st.integers(1, width))]
        mask_HW[block] |= np.uint8(draw(values))
    return mask_HW, num_classes


@settings(max_examples=examples(200), deadline=None)
@given(drawn=bitmasks())
def test_the_runs_of_every_class_are_those_that_plain_loops_find(drawn: tuple[Mask, int]) -> None:
    bitmask_HW, num_classes = drawn
    for c, runs in enumerate(find_runs(bitmask_HW, range(num_classes))):
        mask_HW = (bitmask_HW >> c & 1).astype(np.uint8)
        assert encode_runs(runs) == plain_rle(mask_HW) == encode_rle(mask_HW)
        assert runs.area_px == int(mask_HW.sum())
        assert runs.start_px.dtype == runs.length_px.dtype == np.int32


@settings(max_examples=examples(200), deadline=None)
@given(drawn=bitmasks())
def test_decoding_gives_the_mask_back(drawn: tuple[Mask, int]) -> None:
    bitmask_HW, num_classes = drawn
    height, width = bitmask_HW.shape
    for c, runs in enumerate(find_runs(bitmask_HW, range(num_classes))):
        rle = encode_runs(runs)
        mask_HW = decode_rle(rle, height, width)
        assert mask_HW.dtype == np.uint8
        np.testing.assert_array_equal(mask_HW, bitmask_HW >> c & 1)
        np.testing.assert_array_equal(plain_mask(rle, height, width), mask_HW)


@given(drawn=bitmasks(), data=st.data())
@settings(max_examples=examples(100), deadline=None)
def test_classes_are_given_in_the_order_asked_and_others_do_not_matter(
    drawn: tuple[Mask, int], data: st.DataObject
) -> None:
    bitmask_HW, num_classes = drawn
    classes = data.draw(st.lists(st.integers(0, num_classes - 1), unique=True))
    found = [encode_runs(runs) for runs in find_runs(bitmask_HW, classes)]
    assert found == [plain_rle((bitmask_HW >> c & 1).astype(np.uint8)) for c in classes]


@pytest.mark.parametrize("layout", ["every other", "transposed", "turned", "column-major", "bool"])
def test_the_layout_in_memory_does_not_matter(layout: str) -> None:
    whole_HW = (np.random.default_rng(1).random((30, 44)) < 0.4).astype(np.uint8)
    mask_HW: Any = {
        "every other": whole_HW[::2, 1::3],
        "transposed": whole_HW.T,
        "turned": whole_HW[::-1, ::-1],
        "column-major": np.asfortranarray(whole_HW),
        "bool": whole_HW.astype(bool),
    }[layout]
    assert encode_rle(mask_HW) == plain_rle(mask_HW)


# pycocotools 2.0 converts arrays in the way of numpy 1.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("index", range(6))
def test_synthetic_masks_survive_pycocotools(index: int) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    bitmask_HW = render(21, index).bitmask_HW
    height, width = bitmask_HW.shape
    for c, runs in enumerate(find_runs(bitmask_HW, range(4))):
        counts, end = [], 0
        for start, length in zip(
            (runs.start_px - 1).tolist(), runs.length_px.tolist(), strict=True
        ):
            counts += [start - end, length]
            end = start + length
        theirs = coco.frPyObjects(
            {"size": [height, width], "counts": [*counts, height * width - end]}, height, width
        )
        np.testing.assert_array_equal(coco.decode(theirs), bitmask_HW >> c & 1)
        assert int(coco.area(theirs)) == runs.area_px
        assert coco.encode(np.asfortranarray(bitmask_HW >> c & 1))["counts"] == theirs["counts"]


def test_the_first_and_the_last_pixel_are_1_and_the_number_of_pixels() -> None:
    mask_HW = np.zeros((256, 1600), np.uint8)
    mask_HW[0, 0] = mask_HW[255, 1599] = 1
    assert encode_rle(mask_HW) == "1 1 409600 1"
    assert encode_rle(np.ones((256, 1600), np.uint8)) == "1 409600"
    mask_HW[...] = 0
    mask_HW[1, 0] = mask_HW[0, 1] = 1
    assert encode_rle(mask_HW) == "2 1 257 1"


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (3, 4)])
def test_a_mask_without_pixels_has_no_runs(shape: tuple[int, int]) -> None:
    empty_HW = np.zeros(shape, np.uint8)
    assert encode_rle(empty_HW) == ""
    assert [runs.area_px for runs in find_runs(empty_HW, range(8))] == [0] * 8
    np.testing.assert_array_equal(decode_rle("", *shape), empty_HW)
    np.testing.assert_array_equal(decode_rle(" \n", *shape), empty_HW)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((2, 2, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.full((2, 2), 2, np.uint8),
        np.full((2, 2), 255, np.uint8),
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2), np.int16),
    ],
    ids=["3-D", "1-D", "2", "255", "float", "signed"],
)
def test_what_is_no_mask_is_refused(mask: npt.NDArray[Any]) -> None:
    with pytest.raises(MaskError, match="expected a 2-D mask of 0 and 1"):
        encode_rle(mask)


@pytest.mark.parametrize(
    ("rle", "complaint"),
    [
        ("1", "1 numbers, expected pairs"),
        ("1 2 3", "3 numbers, expected pairs"),
        ("0 1", r"run 1 \(0 1\) has a number below 1"),
        ("1 1 3 0", r"run 2 \(3 0\) has a number below 1"),
        ("1 21", "ends at pixel 21 of 20"),
        ("20 2", "ends at pixel 21 of 20"),
        ("21 1", "ends at pixel 21 of 20"),
        ("1 99999999999999999999999", "of 20"),
        ("99999999999999999999999 1", "of 20"),
        ("5 2 1 1", r"run 2 \(1 1\) comes before run 1 \(5 2\)"),
        ("1 5 3 1", r"run 2 \(3 1\) overlaps run 1 \(1 5\)"),
        ("1 5 5 1", "overlaps"),
        ("1 5 1 5", "overlaps"),
        ("-1 2", "number 1 is '-1'"),
        ("1 +2", r"number 2 is '\+2'"),
        ("1.5 2", "number 1 is '1.5'"),
        ("1,2", "number 1 is '1,2'"),
        ("1 ²", "number 2 is '²'"),
        ("١ 2", "number 1 is"),
        ("nan 1", "number 1 is 'nan'"),
        ("1 2 EncodedPixels", "number 3"),
    ],
)
def test_a_malformed_text_is_refused_with_the_run_at_fault(rle: str, complaint: str) -> None:
    with pytest.raises(MaskError, match=complaint):
        parse_rle(rle, 20)
    with pytest.raises(MaskError, match=complaint):
        decode_rle(rle, 4, 5)


def test_runs_that_touch_and_any_white_space_are_fine() -> None:
    np.testing.assert_array_equal(
        decode_rle("\t1 2\n3 1  10\r\n1 ", 4, 5), plain_mask("1 3 10 1", 4, 5)
    )
    assert parse_rle("1 2 3 1", 20).length_px.tolist() == [2, 1]


@given(text=st.text(alphabet="0123456789 -+.e\n", max_size=30))
@settings(max_examples=examples(300), deadline=None)
def test_any_text_is_a_mask_or_a_mask_error(text: str) -> None:
    try:
        mask_HW = decode_rle(text, 7, 9)
    except MaskError:
        return
    np.testing.assert_array_equal(mask_HW, plain_mask(text, 7, 9))
