"""Image files, made in code: one good image, and the parts that files of each format consist of."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.synthetic import render

Image = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 64, 160


@dataclass(frozen=True, slots=True)
class StrangeFile:
    """One file and its outcome."""

    name: str
    data: bytes
    code: str | None
    """Its code in the quarantine; None: it is scored."""
    image_HW: Image | None = None
    """Its pixels, where the file says exactly which they are."""


@cache
def good_image() -> Image:
    """A piece of synthetic steel, its contrast stretched so that an engine finds something."""
    piece_HW = render(3, 1).image_HW[:HEIGHT, 400 : 400 + WIDTH].astype(np.int32)
    stretched_HW = (piece_HW - piece_HW.min()) * 200 // (piece_HW.max() - piece_HW.min()) + 30
    return stretched_HW.astype(np.uint8)


def encode(extension: str, image: npt.NDArray[np.generic], *flags: int) -> bytes:
    """What OpenCV makes of an image."""
    done, data = cv2.imencode(extension, image, flags)
    assert done
    return data.tobytes()


def good_jpeg(*flags: int) -> bytes:
    """The good image as a gray JPEG, baseline unless flags say otherwise."""
    return encode(".jpg", good_image(), cv2.IMWRITE_JPEG_QUALITY, 90, *flags)


def decoded(data: bytes) -> Image:
    image_HW = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image_HW is not None
    return np.asarray(image_HW, np.uint8)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """The same JPEG with more behind its first marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def without_segment(jpeg: bytes, marker: bytes) -> bytes:
    at = jpeg.index(marker)
    (length,) = struct.unpack_from(">H", jpeg, at + 2)
    return jpeg[:at] + jpeg[at + 2 + length :]


def frame_at(jpeg: bytes | bytearray) -> int:
    return jpeg.index(b"\xff\xc0")


def exif_segment(orientation: int, thumbnail: bytes = b"") -> bytes:
    directory = struct.pack("<HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + directory + thumbnail)


def four_channels(jpeg: bytes, transform: int) -> bytes:
    """Four channels in four scans, each with the pixels of a gray JPEG."""
    frame, scan = frame_at(jpeg), jpeg.index(b"\xff\xda")
    (frame_bytes,) = struct.unpack_from(">H", jpeg, frame + 2)
    size = jpeg[frame + 4 : frame + 9]
    channels = b"".join(bytes([c, 0x11, 0]) for c in (1, 2, 3, 4))
    pixels = jpeg[scan + 10 : -2]
    scans = b"".join(
        segment(0xDA, bytes([1, c, 0, 0, 63, 0])) + pixels for c in (1, 2, 3, 4)
    )  # fmt: skip
    return b"".join(
        [
            jpeg[:2],
            segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform])),
            jpeg[2:frame],
            segment(0xC0, size + b"\x04" + channels),
            jpeg[frame + 2 + frame_bytes : scan],
            scans,
            b"\xff\xd9",
        ]
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_of(
    width: int, height: int, depth: int, colour: int, pixels: bytes, before: bytes = b""
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", head),
            before,
            png_chunk(b"IDAT", pixels),
            png_chunk(b"IEND", b""),
        ]
    )


def png_rows(pixels: Image) -> bytes:
    """Rows as a PNG packs them, without a filter."""
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content


def riff_of(content: bytes, kind: bytes = b"WEBP") -> bytes:
    return riff_chunk(b"RIFF", kind + content)


def tiff_of(
    pixels: bytes,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    order: str = "<",
    compression: int = 1,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    more: list[tuple[int, int, int]] | None = None,
    many_values: tuple[int, int, bytes] | None = None,
) -> bytes:
    """A gray TIFF of 8 bits whose directory comes before its pixels.

    `more` are entries of tag, kind and value; `many_values` is one of tag, kind and bytes.
    """
    large = many_values[2] if many_values else b""
    rows_per_strip = height if rows_per_strip is None else rows_per_strip
    if tile is None:
        place = [(273, 4, 0), (278, 4, rows_per_strip), (279, 4, len(pixels))]
    else:
        place = [(322, 4, tile[0]), (323, 4, tile[1]), (324, 4, 0), (325, 4, len(pixels))]
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1),
        (277, 3, 1), *place, *(more or []),
    ]  # fmt: skip
    if many_values:
        entries.append((many_values[0], many_values[1], 0))
    entries.sort(key=lambda entry: entry[0])
    begin = 8 + 2 + 12 * len(entries) + 4
    directory = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        if many_values and tag == many_values[0]:
            directory += struct.pack(order + "HHII", tag, kind, len(large), begin)
        elif tag in (273, 324):
            directory += struct.pack(order + "HHII", tag, kind, 1, begin + len(large))
        else:
            letters = "H2x" if kind == 3 else "I"
            directory += struct.pack(order + "HHI" + letters, tag, kind, 1, value)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", 8)
    return head + directory + struct.pack(order + "I", 0) + large + pixels


ARITHMETIC_JPEG = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWG
kJ6jq62rZ4C8ybqmx5moq6T/yQALCABAAKABAREA/8wABgAQEAX/2gAIAQEAAD8A/wBLXG+iekhZckKBozwOMRWH6QRb8HaD
WTU5ott3N4mQNLjGBm4e8daSbcAIDacjr328/qQzr3kcj4uO5c7lWaGs0+sYLp6FG+Vkye1wee8bNM+klU0u7UT1clbxkf8A
VjIzGqtJ2lKWNmDjdGSJNz3KSPRzwonfUkH9X2tdfPTmxx5OTw5GjKI7l6D/2Q==
"""
"""64×160 pixels, coded arithmetically, which OpenCV reads and does not write."""
