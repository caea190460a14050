"""Reads an image's header, and refuses one that is too large before anything is allocated.

Supported are JPEG, PNG, BMP, TIFF, WebP and PGM, recognised by their first bytes and never by name.
`probe` reads size and depth; `wholeness` checks whether the file is complete.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import DecodeError
from steel_batch.images.bmp import read_bmp_header
from steel_batch.images.formats import NETPBM_BLANKS, name_other, not_an_image, unsupported
from steel_batch.images.markers import FRAMES, LOSSLESS, PROGRESSIVE
from steel_batch.images.pgm import PGM_MAGIC, read_pgm_header
from steel_batch.images.tiff import (
    BITS,
    CHANNELS,
    HEIGHT,
    ROWS_PER_STRIP,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    check_readable,
    first,
    read_page,
)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header states; not whether it is true."""

    format: str
    """JPEG, PNG, BMP, TIFF, WebP or PGM."""
    width: int
    height: int
    num_channels: int
    """Samples per pixel as stored; 1 for a palette."""
    bit_depth: int
    """Bits per sample as stored."""
    piece_px: int = 0
    """Pixels of a TIFF's tile or strip, which decoders allocate whatever the image's size."""
    coding: int = 0
    """The frame marker of a JPEG, which states how its pixels are coded; 0 for other formats."""

    @property
    def decoded_bytes(self) -> int:
        """About how much memory a decoder needs for the samples, besides the gray pixels."""
        sample_bytes = 2 if self.bit_depth > 8 or self.coding in PROGRESSIVE else 1
        return max(self.width * self.height, self.piece_px) * self.num_channels * sample_bytes


def check_size(header: Header, limits: Limits) -> None:
    """Refuse an image that is larger than a limit, before anything is allocated for it.

    Raises:
        DecodeError: Code ``too_large``; the message names the limit.
    """
    found = (
        ("image-pixels", max(header.width * header.height, header.piece_px), limits.image_pixels),
        ("image-channels", header.num_channels, limits.image_channels),
        ("decoded-bytes", header.decoded_bytes, limits.decoded_bytes),
    )
    for name, value, greatest in found:
        if value > greatest:
            piece = f", in pieces of {header.piece_px:,}" if header.piece_px else ""
            raise DecodeError(
                f"{header.format} of {header.width}×{header.height} pixels{piece} and "
                f"{header.num_channels} channels of {header.bit_depth} bits; at most "
                f"{greatest:,} are decoded (limit {name}, which is {value:,} here).",
                code="too_large",
            )


def probe(data: memoryview, limits: Limits = LIMITS) -> Header:
    """Read a file's header.

    Args:
        data: The file, or its beginning: JPEG may need as far as its first scan and TIFF the
            whole.
        limits: Of the header itself; see `check_size` for those of what it states.

    Raises:
        DecodeError: Code ``empty``, ``not_an_image``, ``unsupported_format``, ``truncated`` (inside
            the header) or ``undecodable`` (the header is damaged).
    """
    if not len(data):
        raise DecodeError("the file is empty (0 bytes).", code="empty")
    head = bytes(data[:32])
    for magic, read in _READERS.items():
        if head.startswith(magic):
            try:
                header = _read_tiff(data, limits) if read is _read_tiff else read(data)
            except (struct.error, IndexError) as error:
                raise DecodeError(
                    f"the file ends inside its header ({len(data)} bytes).", code="truncated"
                ) from error
            if header.width < 1 or header.height < 1:
                raise DecodeError(f"{header.format} whose header states no size.")
            return header
    raise name_other(data)


_UNREAD_FRAMES: Final = {
    0xF7: "a JPEG-LS",
    0xCB: "a lossless JPEG with arithmetic coding",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xDE), "a hierarchical JPEG"),
}
_BARE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})
_SCAN, _END = 0xDA, 0xD9
_STEP_BYTES: Final = 4096
_DNL: Final = b"\xff\xdc\0\x04"
_MOST_MARKERS: Final = 100_000
"""Before the pixels: files have some tens."""


def _read_jpeg(data: memoryview) -> Header:
    position = 2
    for _ in range(_MOST_MARKERS):
        while data[position] != 0xFF:  # libjpeg skips garbage between segments, and so do we
            found = bytes(data[position : position + _STEP_BYTES]).find(b"\xff")
            position += found if found >= 0 else _STEP_BYTES
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _BARE:
            position += 2
        elif marker in (_SCAN, _END):
            return Header("JPEG", 0, 0, 0, 0)
        elif marker in _UNREAD_FRAMES:
            raise unsupported(_UNREAD_FRAMES[marker])
        elif marker in FRAMES:
            depth, height, width, num_channels = struct.unpack_from(">BHHB", data, position + 4)
            if depth != 8:
                raise unsupported(f"a JPEG of {depth} bits")
            (length,) = struct.unpack_from(">H", data, position + 2)
            if length != 8 + 3 * num_channels:
                raise DecodeError(
                    f"JPEG with a damaged frame's header: {length} bytes for {num_channels} "
                    "channels."
                )
            if marker == LOSSLESS and num_channels > 1:
                raise unsupported("a lossless JPEG in colour")
            if height == 0 and _DNL in bytes(data[position:]):
                raise unsupported("a JPEG that states its height after its pixels (DNL)")
            return Header("JPEG", width, height, num_channels, depth, coding=marker)
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length
    raise DecodeError(f"JPEG with more than {_MOST_MARKERS:,} markers before its pixels.")


_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _read_png(data: memoryview) -> Header:
    kind, width, height, depth, colour = struct.unpack_from(">4sIIBB", data, 12)
    if kind != b"IHDR" or colour not in _PNG_CHANNELS:
        raise DecodeError("PNG with a damaged header.")
    return Header("PNG", width, height, _PNG_CHANNELS[colour], depth)


def _read_bmp(data: memoryview) -> Header:
    bmp = read_bmp_header(data)
    depth = 5 if bmp.depth == 16 else min(bmp.depth, 8)
    return Header("BMP", bmp.width, abs(bmp.height), bmp.num_channels, depth)


def _read_tiff(data: memoryview, limits: Limits = LIMITS) -> Header:
    tags = read_page(data, limits)
    check_readable(tags)
    width, height = first(tags, WIDTH, 0), first(tags, HEIGHT, 0)
    rows = first(tags, ROWS_PER_STRIP, height)
    if rows >= 1 << 31:  # the convention for a single strip
        rows = height
    piece_px = max(width * rows, first(tags, TILE_WIDTH, 0) * first(tags, TILE_HEIGHT, 0))
    return Header("TIFF", width, height, first(tags, CHANNELS, 1), first(tags, BITS, 1), piece_px)


def _read_pgm(data: memoryview) -> Header:
    pgm = read_pgm_header(data)
    return Header("PGM", pgm.width, pgm.height, 1, pgm.max_value.bit_length())


def _read_webp(data: memoryview) -> Header:
    kind = bytes(data[8:16])
    if len(kind) == 8 and kind[:4] != b"WEBP":
        raise not_an_image(data)
    if kind[4:] == b"VP8X":
        flags, size = struct.unpack_from("<B3x6s", data, 20)
        width = int.from_bytes(size[:3], "little") + 1
        height = int.from_bytes(size[3:], "little") + 1
        return Header("WebP", width, height, 4 if flags & 0x10 else 3, 8)
    if kind[4:] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4, 8)
    start, width, height = struct.unpack_from("<3sHH", data, 23)
    if kind[4:] != b"VP8 " or start != b"\x9d\x01\x2a":
        raise DecodeError("WebP with a damaged header.")
    return Header("WebP", width & 0x3FFF, height & 0x3FFF, 3, 8)


JPEG_MAGIC: Final = b"\xff\xd8"
_READERS: Final[dict[bytes, Callable[[memoryview], Header]]] = {
    JPEG_MAGIC: _read_jpeg,
    b"\x89PNG\r\n\x1a\n": _read_png,
    b"BM": _read_bmp,
    b"II*\0": _read_tiff,
    b"MM\0*": _read_tiff,
    b"RIFF": _read_webp,
    **{PGM_MAGIC + bytes([blank]): _read_pgm for blank in NETPBM_BLANKS},
}
