"""What is not read is called what it is, and not damaged."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest

from steel_batch.errors import DecodeError
from steel_batch.images.decode import check_jpeg, decode_gray
from tests.bad_files import strange_files
from tests.image_files import HEIGHT, encode, good_image, good_jpeg

JPEG = good_jpeg()
FRAME = JPEG.index(b"\xff\xc0")
GOOD = {file.name: file.data for file in strange_files() if file.code is None}


def error_of(data: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_gray(data)
    return caught.value


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\x0a\x0f&\x08\x8a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"II\xbc\x01\x20\0\0\0", "JPEG XR"),
        (b"\0\0\0\x0cJXS \r\n\x87\n", "JPEG XS"),
        (b"\xff\x10\xff\x50", "JPEG XS"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"GIF89a", "GIF"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"#?RADIANCE\n", "Radiance"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x8aMNG\r\n\x1a\n", "MNG"),
        (b"qoif\0\0", "QOI"),
        (b"\0\0\x01\0\x01\0", "icon"),
    ],
)
def test_other_formats_are_named(head: bytes, name: str) -> None:
    error = error_of(head + b"\0" * 64)
    assert error.code == "unsupported_format"
    assert name in error.message
    assert "PGM" in error.message


@pytest.mark.parametrize(
    ("marker", "name"),
    [(0xF7, "JPEG-LS"), (0xC5, "hierarchical"), (0xC6, "hierarchical"), (0xC7, "hierarchical"),
     (0xCB, "lossless JPEG"), (0xCD, "hierarchical"), (0xCF, "hierarchical")],
)  # fmt: skip
def test_jpegs_of_other_codings_are_named(marker: int, name: str) -> None:
    data = JPEG[: FRAME + 1] + bytes([marker]) + JPEG[FRAME + 2 :]
    error = error_of(data)
    assert error.code == "unsupported_format"
    assert name in error.message
    with pytest.raises(DecodeError, match=name):
        check_jpeg(data)
    spiff = b"\xff\xd8\xff\xe8\0\x20SPIFF\0" + bytes(24)  # as encoders of JPEG-LS begin
    assert name in error_of(spiff + data[2:]).message


def test_a_height_that_follows_the_pixels_is_named() -> None:
    without = JPEG[: FRAME + 5] + b"\0\0" + JPEG[FRAME + 7 :]
    behind = without[:-2] + struct.pack(">BBHH", 0xFF, 0xDC, 4, HEIGHT) + JPEG[-2:]
    error = error_of(behind)
    assert error.code == "unsupported_format"
    assert "DNL" in error.message
    assert error_of(without).code == "undecodable"


def test_a_height_that_is_stated_twice_has_to_be_one() -> None:
    said = [JPEG[:-2] + struct.pack(">BBHH", 0xFF, 0xDC, 4, h) + JPEG[-2:] for h in (HEIGHT, 63)]
    np.testing.assert_array_equal(decode_gray(said[0]), decode_gray(JPEG))
    assert error_of(said[1]).code == "undecodable"


def test_an_arithmetic_jpeg_that_ends_in_gray_is_no_cut_off_one() -> None:
    """Its coder leaves zeros away at the end, which libjpeg takes for given."""
    found = decode_gray(base64.b64decode(_GRAY_END))
    assert found.shape == (64, 160)
    assert (found[-8:, -8:] == 128).all()
    assert found.std() > 10
    assert decode_gray(GOOD["jpeg_arithmetic"]).shape == (64, 160)


def test_a_lossless_jpeg_that_was_cut_and_closed_is_refused_at_any_byte() -> None:
    jpeg = base64.b64decode(_LOSSLESS)
    whole = decode_gray(jpeg)
    begin = jpeg.index(b"\xff\xda") + 10
    for size in range(begin, len(jpeg) - 4):
        try:
            found = decode_gray(jpeg[:size].rstrip(b"\xff") + b"\xff\xd9")
        except DecodeError as error:
            code = error.code
        else:
            code = "" if (found == whole).all() else "other pixels"
        assert code in ("truncated", ""), size
    assert size == len(jpeg) - 5


def test_every_format_that_is_read_is_still_read() -> None:
    for extension in (".jpg", ".png", ".bmp", ".tiff", ".webp"):
        assert decode_gray(encode(extension, good_image())).shape == good_image().shape


_GRAY_END = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71
////m8H////6/+b9//j/yQALCABAAKABAREA/8wABgAQEAX/2gAIAQEAAD8A/dL8u00n+7ysT4GAIJeGkYrxfW1CFQIvh65OldK9
kQPzkoHH/PyOrSFa+QT/AA2YkhesmjCcTIWVRE6Mwt9ZorjLy8MVIelh/rKVTpRIv+p1QRX0CwWt+5F24VFsR8F5oZzV/fiCgUQa
K8Wt9oW5Iket5xczYG8PX6+aL8MP5mlBO9COb9WwKb7iIuYHrL8sz7fwj+6f/v8Af/r9TU1YrowUJDZ8lJa+XDgM+dqnzMc0Gs86
jvzt3VcID8hxrf8A9MzT59yQ/9k=
"""
"""64×160 pixels, coded arithmetically, the lower 48 rows of them gray."""

_LOSSLESS = """
/9j/4AAQSkZJRgABAQAAAQABAAD/wwALCAAYABgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABggH/9oACAEBAAEAAJ/SpUqVKlil
KlSpUqWKUqVKlSpYpSpaHSpUsUpUqVKlilKlSpUqWKUqVKlSpcLSpUqVKlilKlSpUqWKUqVKlSxSlSpaHSpYpSpUqVKlilKlSpUq
WKUqVKlSxThaVKlSpYpSpUqVKlilKlSpUqWKUqVLQ6VLFKVKlSpYpSpUqVKlilKlSpUqWKcLSpUqVLFKVKlSpUsUpUqVKlilKlSp
aHSxSlSpUqVLFKVKlSpUsUpUqVKlilLhaVKlSxSlSpUqVLFKVKlSpUsUpUqVLQ6WKUqVKlSxSlSpUqVLFKVKlSpUsUpcLSpUqWKU
qVKlSxSlSpUqVLFKVKlSpaHilKlSpUqWKUqVKlSpYpSpUqVLFKVLhaVKlilKlSpUqWKUqVKlSpYpSpUqVLQ8UpUqVKlilKlSpUqW
KUqVKlSpYpSpcLSpUsUpUqVKlilKlSpUqWKUqVKlSpcLSpUqVKlilKlSpUqWKUqVKlSxSlSpaHSpYpSpUqVKlilKlSpUqWKUqVKl
SpcLSpUqVLFKVKlSpUsUpUqVKlSxSlSpaHSpYpSpUqVLFKVKlSpUsUpUqVKlSxThaVKlSpYpSpUqVKlilKlSpUsUpUqVLQ6WKUqV
KlSpYpSpUqVKlilKlSpUsUpcLSpUqWKUqVKlSpYpSpUqVKlilKlSpaHSxSlSpUqWKUqVKlSpYpSpUqVKlilLhaVKlSxSlSpUqVLF
KVKlSpYpSpUqVL//2Q==
"""
"""24×24 pixels, lossless, which OpenCV reads and does not write."""
