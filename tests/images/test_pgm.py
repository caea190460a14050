"""PGMs as line-scan software writes them, and everything else that begins with a P."""

from __future__ import annotations

import numpy as np
import pytest

from steel_batch.errors import DecodeError
from steel_batch.images.decode import decode_gray
from steel_batch.images.header import probe
from tests.image_files import HEIGHT, WIDTH, good_image

GRAY = good_image()
PIXELS = GRAY.tobytes()


def error_of(data: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_gray(data)
    return caught.value


@pytest.mark.parametrize(
    "head",
    [
        b"P5\n160 64\n255\n",
        b"P5 160 64 255 ",
        b"P5\r160\r64\r255\r",
        b"P5\r\n160 64\r\n255\r\n",
        b"P5\t160\t64\t255\t",
        b"P5\n# line 3, camera 1\n160 64\n# exposure 20\n255\n",
        b"P5#160 64\n160 # columns\n64 # rows\n255\n",
        b"P5\n160 64\n255# white\n",
        b"P5\n\n  160\n\n  64\n255\n",
        b"P5\n0160 064\n0255\n",
    ],
)
def test_any_spelling_of_the_header_is_read(head: bytes) -> None:
    np.testing.assert_array_equal(decode_gray(head + PIXELS), GRAY)
    header = probe(memoryview(head + PIXELS))
    assert (header.format, header.width, header.height) == ("PGM", WIDTH, HEIGHT)


def test_a_first_pixel_like_the_end_of_a_line_is_a_pixel() -> None:
    pixels = b"\n" + PIXELS[1:]
    for head in (b"P5\n160 64\n255\n", b"P5\n160 64\n255\r", b"P5\n160 64\n255\r\n"):
        found = decode_gray(head + pixels)
        assert found.tobytes() == pixels


@pytest.mark.parametrize("max_value", [1, 3, 15, 100, 127, 200, 254])
def test_the_greatest_value_of_the_header_is_white(max_value: int) -> None:
    values = (GRAY.astype(int) * max_value + 127) // 255
    found = decode_gray(b"P5 160 64 %d\n" % max_value + values.astype(np.uint8).tobytes())
    np.testing.assert_array_equal(found, np.rint(values * 255 / max_value).astype(np.uint8))


@pytest.mark.parametrize("max_value", [256, 1000, 3017, 40_000])
def test_a_greatest_value_of_no_whole_bits_is_white_too(max_value: int) -> None:
    values = (GRAY.astype(int) * max_value + 127) // 255
    found = decode_gray(b"P5 160 64 %d\n" % max_value + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(found, GRAY)


def test_a_value_above_white_is_refused_with_it() -> None:
    error = error_of(b"P5 160 64 200\n" + PIXELS)
    assert error.code == "wrong_bits"
    assert f"greatest value is {GRAY.max()}" in error.message
    little_endian = (GRAY.astype(np.uint16) << 4).astype("<u2").tobytes()
    assert error_of(b"P5 160 64 4095\n" + little_endian).code == "wrong_bits"


def test_a_file_that_is_cut_off_is_refused_at_any_byte() -> None:
    whole = b"P5\n# line 3\n160 64\n255\n" + PIXELS
    for size in [*range(3, 30), len(whole) // 2, len(whole) - 1]:
        assert error_of(whole[:size]).code == "truncated", size


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"P5\n160 64\n0\n" + PIXELS, "undecodable"),
        (b"P5\n160 64\n65536\n" + PIXELS, "undecodable"),
        (b"P5\n0 64\n255\n", "undecodable"),
        (b"P5\n-160 64\n255\n" + PIXELS, "undecodable"),
        (b"P5\n160x64\n255\n" + PIXELS, "undecodable"),
        (b"P5\n160 64\n255x" + PIXELS, "undecodable"),
        (b"P5\n99999999999 64\n255\n", "undecodable"),
        (b"P5\n60000 60000\n255\n", "too_large"),
        (b"P5\n160 64\n255\n" + PIXELS * 2, "undecodable"),  # of two bytes, as it seems
        (b"P5\n160 64\n255\n" + PIXELS + b"rest", "undecodable"),
        (b"P5\n160 64\n255\n" + PIXELS + b"P5\n160 64\n255\n" + PIXELS, "multiple_images"),
        (b"P5\n160 64\n255\n" + PIXELS + b"\nP5\n1 1\n255\n\0", "multiple_images"),
        (b"P5x160 64\n255\n" + PIXELS, "not_an_image"),
        (b"P5", "not_an_image"),
        (b"P8\n160 64\n255\n", "not_an_image"),
        (b"PGM\n", "not_an_image"),
    ],
)
def test_what_is_no_whole_pgm_of_one_image_is_refused(data: bytes, code: str) -> None:
    assert error_of(data).code == code


@pytest.mark.parametrize("padding", [b"\0" * 4096, b"\n", b"\r\n\r\n", b"  "])
def test_bytes_that_only_fill_are_passed_over(padding: bytes) -> None:
    np.testing.assert_array_equal(decode_gray(b"P5\n160 64\n255\n" + PIXELS + padding), GRAY)


@pytest.mark.parametrize("blank", [b"\n", b" ", b"\r", b"\t", b"#"])
@pytest.mark.parametrize(
    ("magic", "name"),
    [(b"P1", "PBM"), (b"P2", "PGM as text"), (b"P3", "PPM"), (b"P4", "PBM"), (b"P6", "PPM"),
     (b"P7", "PAM"), (b"PF", "PFM"), (b"Pf", "PFM")],
)  # fmt: skip
def test_its_relatives_are_named(magic: bytes, name: str, blank: bytes) -> None:
    error = error_of(magic + blank + b"2 2\n1\n0 1 1 0\n")
    assert error.code == "unsupported_format"
    assert name in error.message
