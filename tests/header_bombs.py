"""Small files that claim to be, or to need, more pixels than any camera makes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2

from tests.image_files import (
    WIDTH,
    StrangeFile,
    encode,
    frame_at,
    good_image,
    good_jpeg,
    png_of,
    riff_chunk,
    riff_of,
    segment,
    tiff_of,
)

BOMB_PX = 60_000
"""Width and height of the images that only a header makes large."""


def header_bombs() -> Iterator[StrangeFile]:
    """Small files that claim to be, or to need, more pixels than any camera makes."""
    jpeg = bytearray(good_jpeg())
    struct.pack_into(">HH", jpeg, frame_at(jpeg) + 5, BOMB_PX, BOMB_PX)
    yield StrangeFile("bomb_jpeg", bytes(jpeg), "too_large")
    yield StrangeFile("bomb_png", png_of(BOMB_PX, BOMB_PX, 8, 0, zlib.compress(b"\0")), "too_large")
    yield StrangeFile(
        "bomb_png_1_bit", png_of(30_000, 30_000, 1, 0, zlib.compress(b"")), "too_large"
    )
    bmp = bytearray(encode(".bmp", good_image()))
    struct.pack_into("<ii", bmp, 18, BOMB_PX, BOMB_PX)
    yield StrangeFile("bomb_bmp", bytes(bmp), "too_large")
    struct.pack_into("<ii", bmp, 18, 30_000, -30_000)
    yield StrangeFile("bomb_bmp_upside_down", bytes(bmp), "too_large")
    row = b"\0" * WIDTH
    yield StrangeFile("bomb_tiff", tiff_of(row, width=BOMB_PX, height=BOMB_PX), "too_large")
    yield StrangeFile(
        "bomb_tiff_width_said_twice",
        tiff_of(good_image().tobytes(), width=30_000, height=30_000, more=[(256, 4, WIDTH)]),
        "too_large",
    )
    zeros = zlib.compress(bytes(9_008 * 9_008), 1)
    yield StrangeFile(
        "bomb_tiff_tile", tiff_of(zeros, compression=8, tile=(9_008, 9_008)), "too_large"
    )
    strip = tiff_of(zlib.compress(bytes(WIDTH << 19), 1), compression=8, rows_per_strip=1 << 19)
    yield StrangeFile("bomb_tiff_strip", strip, "too_large")
    canvas = (BOMB_PX - 1).to_bytes(3, "little") * 2
    yield StrangeFile(
        "bomb_webp_canvas",
        riff_of(riff_chunk(b"VP8X", b"\0\0\0\0" + canvas) + encode(".webp", good_image())[12:]),
        "too_large",
    )
    largest = 0x3FFF | 0x3FFF << 14
    yield StrangeFile(
        "bomb_webp_lossless",
        riff_of(riff_chunk(b"VP8L", b"\x2f" + struct.pack("<I", largest) + b"\0" * 64)),
        "too_large",
    )
    yield StrangeFile("bomb_jpeg_scans", _scan_bomb(), "too_large")


def _scan_bomb() -> bytes:
    """A progressive JPEG of 61 million pixels and thousands of scans that each visit them all."""
    jpeg = bytearray(good_jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    frame, scan = jpeg.index(b"\xff\xc2"), jpeg.index(b"\xff\xda")
    struct.pack_into(">HH", jpeg, frame + 5, 7_800, 7_800)
    nothing = segment(0xDA, bytes([1, 1, 0, 0, 0, 0x01])) + b"\0"
    return bytes(jpeg[:scan]) + nothing * 5_000 + bytes(jpeg[scan:])
