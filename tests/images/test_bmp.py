"""BMPs whose colours lie in fields: whichever bits are red, green and blue, the picture is one."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from steel_batch.errors import DecodeError
from steel_batch.images.decode import decode_gray
from tests.image_files import HEIGHT, WIDTH, good_image

RGB = np.dstack([good_image(), np.roll(good_image(), 20, axis=1), 255 - good_image()])
RGB_GRAY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY).astype(int)
Fields = tuple[int, int, int]
FIELDS: dict[str, tuple[int, Fields]] = {
    "usual": (32, (0xFF0000, 0xFF00, 0xFF)),
    "red and blue exchanged": (32, (0xFF, 0xFF00, 0xFF0000)),
    "at the top": (32, (0xFF000000, 0xFF0000, 0xFF00)),
    "at the top, exchanged": (32, (0xFF00, 0xFF0000, 0xFF000000)),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    "565": (16, (0xF800, 0x7E0, 0x1F)),
    "555": (16, (0x7C00, 0x3E0, 0x1F)),
    "565 exchanged": (16, (0x1F, 0x7E0, 0xF800)),
    "555 exchanged": (16, (0x1F, 0x3E0, 0x7C00)),
    "444": (16, (0xF00, 0xF0, 0xF)),
}


def stored(depth: int, fields: Fields, rgb: np.ndarray = RGB) -> tuple[bytes, np.ndarray]:
    """Rows of pixels, and the colours that they hold."""
    values, colours = np.zeros(rgb.shape[:2], np.uint32), []
    for field, colour in zip(fields, np.moveaxis(rgb, 2, 0), strict=True):
        greatest = field // (field & -field)
        part = (colour.astype(np.uint32) * greatest + 127) // 255
        values |= part * (field & -field)
        colours.append(np.rint(part * (255 / greatest)).astype(np.uint8))
    rows = values.astype(f"<u{depth // 8}")
    padding = b"\0" * (-len(rows[0]) * rows.itemsize % 4)
    return b"".join(row.tobytes() + padding for row in rows), np.dstack(colours)


def bmp(
    depth: int, fields: Fields | None, pixels: bytes, *, size: int = 40, width: int = WIDTH,
    height: int = -HEIGHT, compression: int = 3,
) -> bytes:  # fmt: skip
    content = b"" if fields is None else struct.pack("<III", *fields)
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, depth, compression, *[0] * 5)
    behind = content if size == 40 else b""
    if size > 40:
        head += content.ljust(size - 40, b"\0")
    offset = 14 + len(head) + len(behind)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, offset) + head + behind + pixels


def code_of(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_gray(data)
    return caught.value.code


@pytest.mark.parametrize("size", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_the_colour_that_the_header_says(name: str, size: int) -> None:
    depth, fields = FIELDS[name]
    pixels, colours = stored(depth, fields)
    expected = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY).astype(int)
    assert np.abs(expected - RGB_GRAY).max() <= 9
    found = decode_gray(bmp(depth, fields, pixels, size=size)).astype(int)
    assert np.abs(found - expected).max() <= 1
    from_below = decode_gray(bmp(depth, fields, pixels, size=size, height=HEIGHT)).astype(int)
    assert np.abs(from_below - expected[::-1]).max() <= 1


def test_16_bits_without_fields_are_five_of_each_colour() -> None:
    pixels, colours = stored(16, (0x7C00, 0x3E0, 0x1F))
    found = decode_gray(bmp(16, None, pixels, compression=0))
    np.testing.assert_array_equal(found, cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))
    white = bmp(16, None, b"\xff\x7f" * WIDTH * HEIGHT, compression=0)
    assert (decode_gray(white) == 255).all()


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_rows_are_filled_to_whole_words(width: int) -> None:
    for depth, fields in ((16, (0xF800, 0x7E0, 0x1F)), (32, (0xFF, 0xFF00, 0xFF0000))):
        pixels, colours = stored(depth, fields, RGB[:, :width])
        found = decode_gray(bmp(depth, fields, pixels, width=width))
        np.testing.assert_array_equal(found, cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize("depth", [16, 32])
def test_a_file_that_is_cut_off_is_refused_at_any_byte(depth: int) -> None:
    fields = FIELDS["565" if depth == 16 else "red and blue exchanged"][1]
    whole = bmp(depth, fields, stored(depth, fields)[0])
    for size in [*range(16, 70), len(whole) // 2, len(whole) - 1]:
        assert code_of(whole[:size]) == "truncated"


@pytest.mark.parametrize(
    "fields",
    [(0, 0x7E0, 0x1F), (0xF800, 0xF800, 0x1F), (0xF00F, 0x7E0, 0x10), (0x1F0000, 0x7E0, 0x1F)],
)
def test_fields_that_make_no_sense_are_damage(fields: Fields) -> None:
    pixels = bytes(2 * WIDTH * HEIGHT)
    assert code_of(bmp(16, fields, pixels)) == "undecodable"
    assert code_of(bmp(24, FIELDS["565"][1], bytes(3 * WIDTH * HEIGHT))) == "undecodable"


@pytest.mark.parametrize(
    ("compression", "name"),
    [(1, "run-length"), (2, "run-length"), (4, "JPEG"), (5, "PNG"), (11, "CMYK")],
)
def test_a_bmp_around_another_format_is_named(compression: int, name: str) -> None:
    with pytest.raises(DecodeError, match=f"a BMP that holds.*{name}") as caught:
        decode_gray(bmp(24, None, b"\0" * 99, compression=compression))
    assert caught.value.code == "unsupported_format"
    assert code_of(bmp(2, None, b"\0" * 9999, compression=0)) == "unsupported_format"
