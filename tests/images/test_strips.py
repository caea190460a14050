"""Strips of TIFF are counted out as libtiff unpacks them."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.errors import DecodeError
from steel_batch.images.decode import decode_gray
from steel_batch.images.strips import check_strips
from steel_batch.images.tiff import STRIP_BYTES, STRIP_OFFSETS, read_page
from tests.conftest import examples
from tests.image_files import encode, good_image

COMPRESSIONS = st.sampled_from([1, 5, 8, 32773])


def is_whole(data: bytes) -> bool:
    try:
        check_strips(memoryview(data), read_page(memoryview(data)))
    except (DecodeError, struct.error):
        return False
    return True


def libtiff_complains(data: bytes) -> bool:
    """Of gray samples of 16 bits OpenCV passes libtiff's errors on; of 8 bits it does not."""
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return True
    return found is None


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    """Pieces of steel, noise and flat images, so that codes are short, long and repeated."""
    height, width = draw(st.integers(1, 64)), draw(st.integers(1, 160))
    kind = draw(st.sampled_from(["steel", "noise", "flat"]))
    if kind == "steel":
        return np.ascontiguousarray(good_image()[:height, :width])
    if kind == "flat":
        return np.full((height, width), draw(st.integers(0, 255)), np.uint8)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.integers(0, 256, (height, width)).astype(np.uint8)


@settings(max_examples=examples(150), deadline=None)
@given(image_HW=images(), compression=COMPRESSIONS, channels=st.sampled_from([1, 3]))
def test_what_opencv_writes_is_whole(image_HW: np.ndarray, compression: int, channels: int) -> None:
    pixels = image_HW if channels == 1 else np.dstack([image_HW] * 3)
    data = encode(".tiff", pixels, cv2.IMWRITE_TIFF_COMPRESSION, compression)
    assert is_whole(data)
    np.testing.assert_array_equal(decode_gray(data), image_HW)


@settings(max_examples=examples(300), deadline=None)
@given(
    image_HW=images(),
    compression=COMPRESSIONS,
    damage=st.binary(min_size=1, max_size=6),
    place=st.floats(0, 1, exclude_max=True),
)
def test_whatever_libtiff_complains_of_is_not_whole(
    image_HW: np.ndarray, compression: int, damage: bytes, place: float
) -> None:
    data = encode(
        ".tiff", image_HW.astype(np.uint16) * 257, cv2.IMWRITE_TIFF_COMPRESSION, compression
    )
    tags = read_page(memoryview(data))
    begin, size = tags[STRIP_OFFSETS][0], tags[STRIP_BYTES][0]
    at = begin + int(place * size)
    end = min(at + len(damage), begin + size)
    damaged = data[:at] + damage[: end - at] + data[end:]
    if libtiff_complains(damaged):
        assert not is_whole(damaged)
    elif compression != 8:  # its checksum, which libtiff does not look at
        assert is_whole(damaged)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_damaged_strip_is_an_error_and_not_a_black_one(bits: int) -> None:
    image_HW = good_image().astype(f"u{bits // 8}") << (bits - 8)
    data = bytearray(encode(".tiff", image_HW))
    data[1000:1200] = b"\xff" * 200
    with pytest.raises(DecodeError, match=r"strip: number 1 of \d+ decodes to \d+ bytes") as caught:
        decode_gray(bytes(data))
    assert caught.value.code == "undecodable"
