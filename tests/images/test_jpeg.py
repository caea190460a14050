"""Which JPEGs are left to any decoder, and which to libjpeg alone."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from steel_batch.images.jpeg import is_plain_jpeg
from steel_batch.synthetic.writer import encode_jpeg
from tests.bad_files import strange_files
from tests.image_files import HEIGHT, WIDTH, encode, good_image, good_jpeg

FILES = {file.name: file.data for file in strange_files()}
PLAIN = {
    "jpeg",
    "jpeg_restarts",
    "jpeg_optimised",
    "jpeg_colour",
    "jpeg_rotated_by_exif",
    "jpeg_mirrored_by_exif",
    "jpeg_with_thumbnail",
    "jpeg_huge_exif",
    "jpeg_icc_of_end_markers",
    "jpeg_comment",
    "jpeg_trailing_garbage",
    "jpeg_trailing_zeros",
    "jpeg_then_png",
    "jpeg_black",
    "jpeg_gray_like_missing",
}
"""Those of the strange files that are good, of the right size, and nothing but plain."""
COLOUR = cv2.cvtColor(good_image(), cv2.COLOR_GRAY2BGR)


def is_plain(data: bytes) -> bool:
    return is_plain_jpeg(data, HEIGHT, WIDTH)


def with_frame(jpeg: bytes, at: int, value: int) -> bytes:
    """The same JPEG with another byte in its frame's header."""
    place = jpeg.index(b"\xff\xc0") + at
    return jpeg[:place] + bytes([value]) + jpeg[place + 1 :]


def with_adobe(jpeg: bytes, transform: int) -> bytes:
    segment = struct.pack(">BBH5s6sB", 0xFF, 0xEE, 14, b"Adobe", b"\0\x64\0\0\0\0", transform)
    return jpeg[:2] + segment + jpeg[2:]


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_plain_file_is_plain_whatever_stands_before_and_behind_it(name: str) -> None:
    assert is_plain(FILES[name])


def test_every_other_good_file_is_left_to_the_cpu() -> None:
    good = {file.name for file in strange_files() if file.code is None}
    assert {"jpeg_cmyk", "jpeg_ycck", "jpeg_progressive", "jpeg_arithmetic"} <= good - PLAIN
    assert {name for name in good - PLAIN if is_plain(FILES[name])} == set()


def test_a_file_that_lacks_a_part_of_its_headers_is_left_to_the_cpu() -> None:
    jpeg = good_jpeg()
    headers = jpeg.index(b"\xff\xda") + 4
    assert not any(is_plain(jpeg[:length]) for length in range(headers))
    for name in ("jpeg_no_huffman", "jpeg_no_quantisation", "jpeg_no_height", "jpeg_second_frame"):
        assert not is_plain(FILES[name]), name


def test_another_size_is_left_to_the_cpu_also_where_only_the_sides_are_swapped() -> None:
    assert not is_plain_jpeg(good_jpeg(), WIDTH, HEIGHT)
    assert not is_plain_jpeg(good_jpeg(), HEIGHT, WIDTH + 1)


@pytest.mark.parametrize("sampling", [0x111111, 0x121111, 0x211111, 0x221111, 0x411111])
def test_colour_is_plain_in_the_samplings_that_every_decoder_knows(sampling: int) -> None:
    flags = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    assert is_plain(encode(".jpg", COLOUR, *flags)) == (sampling != 0x411111)


def test_rgb_that_is_stored_as_it_is_is_left_to_the_cpu() -> None:
    colour = encode(".jpg", COLOUR)
    assert is_plain(with_adobe(colour, 1))
    assert not is_plain(with_adobe(colour, 0))
    assert is_plain(with_adobe(good_jpeg(), 0))
    assert not is_plain(with_frame(colour, 10, ord("R")))


def test_gray_in_several_blocks_a_unit_is_left_to_the_cpu() -> None:
    assert not is_plain(with_frame(good_jpeg(), 11, 0x22))


def test_what_this_project_writes_is_plain() -> None:
    strip_HW = np.zeros((256, 1600), np.uint8)
    assert is_plain_jpeg(encode_jpeg(strip_HW), 256, 1600)


def test_any_buffer_will_do() -> None:
    assert is_plain_jpeg(np.frombuffer(good_jpeg(), np.uint8).data, HEIGHT, WIDTH)
    assert not is_plain_jpeg(b"", HEIGHT, WIDTH)
