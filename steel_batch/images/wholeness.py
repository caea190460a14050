"""Checks by its structure whether an image file is complete.

Decoders differ in how they handle half a file: some refuse it, some fill the rest with gray. A
camera or a copy that stopped early must be noticed, so the structure is read to its end. That takes
about a hundredth of the time of decoding.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import DecodeError
from steel_batch.images.bmp import read_bmp_header
from steel_batch.images.header import Header
from steel_batch.images.markers import first_scan
from steel_batch.images.pgm import check_pgm
from steel_batch.images.scans import check_scans
from steel_batch.images.several import (
    refuse_animated_png,
    refuse_animated_webp,
    refuse_listed_jpegs,
    refuse_second_jpeg,
)
from steel_batch.images.strips import check_strips
from steel_batch.images.tiff import read_page

_SEEDS: Final = np.arange(1024) * 73 % 255
_NOISE: Final = _SEEDS.astype(np.uint8).tobytes()
"""Bytes that a JPEG decoder reads as pixels; none is 0xFF."""


def check_whole(data: memoryview, header: Header, limits: Limits = LIMITS) -> None:
    """Refuse a file that ends early.

    Args:
        data: The file; bytes after its end are fine.
        header: Its header.
        limits: Of a TIFF's strips or tiles.

    Raises:
        DecodeError: Code ``truncated``, ``undecodable`` for a PNG that fails a checksum, a TIFF
            whose strips do not hold their pixels or a JPEG whose scans are out of order, or
            ``too_large`` for a JPEG of too many scans or a TIFF of too many strips.
    """
    try:
        if header.format == "TIFF":
            check_strips(data, read_page(data, limits), limits)
        else:
            _CHECKS[header.format](data)
    except struct.error as error:
        raise _cut_off(header.format, data) from error


def _cut_off(name: str, data: memoryview) -> DecodeError:
    return DecodeError(
        f"{name} without its end: only {len(data)} bytes are there.",
        code="truncated",
    )


def with_noise_at_end(data: memoryview) -> bytes:
    """Return the same JPEG with more data to decode before the end of its first scan.

    A decoder that already has all pixels ignores the extra data. One that ran out of data uses it,
    so its pixels change: that reveals a file that was cut off and closed with an end marker.
    """
    _, end = first_scan(data)
    restarts = b"".join(b"\xff" + bytes([0xD0 + i % 8]) + _NOISE for i in range(16))
    return bytes(data[:end]) + _NOISE + restarts + bytes(data[end:])


def _check_jpeg(data: memoryview) -> None:
    end, index = check_scans(data)
    if index is not None:
        refuse_listed_jpegs(data, index)
    refuse_second_jpeg(data, end)


def _check_png(data: memoryview) -> None:
    position, kind, kinds, num_frames = 8, b"", list[bytes](), 0
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        is_critical = not kind[0] & 0x20
        if is_critical and zlib.crc32(data[position + 4 : position + 8 + length]) != checksum:
            raise DecodeError(f"PNG with a wrong checksum in the chunk at byte {position}.")
        if kind == b"acTL":
            (num_frames,) = struct.unpack_from(">I", data, position + 8)
        kinds.append(kind)
        position += 12 + length
    if num_frames:
        refuse_animated_png(num_frames, kinds)


def _check_bmp(data: memoryview) -> None:
    bmp = read_bmp_header(data)
    if bmp.offset + bmp.row_bytes * abs(bmp.height) > len(data):
        raise _cut_off("BMP", data)


def _check_webp(data: memoryview) -> None:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise _cut_off("WebP", data)
    refuse_animated_webp(data)


_CHECKS: Final[dict[str, Callable[[memoryview], None]]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "BMP": _check_bmp,
    "WebP": _check_webp,
    "PGM": check_pgm,
}
