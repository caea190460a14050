"""What an image file says of itself, read before anything is decoded or allocated.

JPEG, PNG, BMP, TIFF and WebP are read, told by their first bytes and never by a name. `probe` reads
size and depth; whether the file is all there is `wholeness`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from steel_batch.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; not whether it is true."""

    format: str
    """JPEG, PNG, BMP, TIFF or WebP."""
    width: int
    height: int
    num_channels: int
    """Samples a pixel as stored; 1 for a palette."""
    bit_depth: int
    """Bits a sample as stored."""
    piece_px: int = 0
    """Pixels of a TIFF's tile or strip, for which decoders make room whatever the image's size."""


def probe(data: memoryview) -> Header:
    """Read a file's header.

    Args:
        data: The file, or its beginning: JPEG may need as far as its first scan and TIFF the
            whole.

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
                header = read(data)
            except (struct.error, IndexError) as error:
                raise DecodeError(
                    f"the file ends inside its header ({len(data)} bytes).", code="truncated"
                ) from error
            if header.width < 1 or header.height < 1:
                raise DecodeError(f"{header.format} that states no size before its pixels.")
            return header
    for start, magic, name in _OTHER_IMAGES:
        if head.startswith(magic, start):
            raise _unsupported(name)
    for magic, name in _NO_IMAGES.items():
        if head.startswith(magic):
            raise DecodeError(f"the file is {name}, no image.", code="not_an_image")
    raise _no_image(data)


def _unsupported(name: str) -> DecodeError:
    return DecodeError(
        f"the file is {name}; JPEG of 8 bits, PNG, BMP, WebP and TIFF of at most 16 bits, plain or "
        "with LZW, Deflate or PackBits, are read.",
        code="unsupported_format",
    )


def _no_image(data: memoryview) -> DecodeError:
    return DecodeError(
        f"the file is no image: it begins with {bytes(data[:8])!r} ({len(data)} bytes).",
        code="not_an_image",
    )


_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BARE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})
_SCAN, _END = 0xDA, 0xD9
_STEP_BYTES: Final = 4096


def _read_jpeg(data: memoryview) -> Header:
    position = 2
    while True:
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
        elif marker in _FRAMES:
            depth, height, width, num_channels = struct.unpack_from(">BHHB", data, position + 4)
            if depth != 8:
                raise _unsupported(f"a JPEG of {depth} bits")
            return Header("JPEG", width, height, num_channels, depth)
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length


_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _read_png(data: memoryview) -> Header:
    kind, width, height, depth, colour = struct.unpack_from(">4sIIBB", data, 12)
    if kind != b"IHDR" or colour not in _PNG_CHANNELS:
        raise DecodeError("PNG with a damaged header.")
    return Header("PNG", width, height, _PNG_CHANNELS[colour], depth)


def _read_bmp(data: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    elif size in (40, 52, 56, 64, 108, 124):
        width, height, _, depth = struct.unpack_from("<iiHH", data, 18)
    else:
        raise _no_image(data)
    num_channels = 3 if depth == 16 else max(1, depth // 8)
    return Header("BMP", width, abs(height), num_channels, 5 if depth == 16 else min(depth, 8))


WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION = 273, 274
CHANNELS, ROWS_PER_STRIP, STRIP_BYTES, PLANES = 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339
_TAGS: Final = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, ORIENTATION, CHANNELS,
     ROWS_PER_STRIP, STRIP_BYTES, PLANES, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES,
     SAMPLE_FORMAT}
)  # fmt: skip
_NUMBERS: Final = {1: "B", 3: "H", 4: "I"}


def _tiff_entries(data: memoryview) -> Iterator[tuple[int, str, int, int]]:
    """Of the first directory's entries that matter: tag, letter, number of values and place.

    A tag that comes twice counts where it comes first, as in libtiff.
    """
    order = "<" if data[0] == 0x49 else ">"
    (offset,) = struct.unpack_from(order + "I", data, 4)
    (num_entries,) = struct.unpack_from(order + "H", data, offset)
    seen = set()
    for entry in range(offset + 2, offset + 2 + 12 * num_entries, 12):
        tag, kind, num_values = struct.unpack_from(order + "HHI", data, entry)
        if tag not in _TAGS or tag in seen or kind not in _NUMBERS:
            continue
        seen.add(tag)
        position, letter = entry + 8, _NUMBERS[kind]
        if num_values * struct.calcsize(letter) > 4:
            (position,) = struct.unpack_from(order + "I", data, position)
        yield tag, order + letter, num_values, position


def read_tiff_tags(data: memoryview) -> dict[int, tuple[int, ...]]:
    """What the first directory of a TIFF says of where and how its pixels are, by tag.

    Raises:
        struct.error: The file ends before them.
    """
    tags = {}
    for tag, letter, num_values, position in _tiff_entries(data):
        if position + num_values * struct.calcsize(letter) > len(data):
            raise struct.error
        values = f"{letter[0]}{num_values}{letter[1]}"
        tags[tag] = struct.unpack_from(values, data, position)
    return tags


def without_orientation(data: memoryview) -> bytes | memoryview:
    """The same TIFF without a turn or a mirror, which OpenCV heeds there whatever it is told."""
    for tag, letter, num_values, position in _tiff_entries(data):
        if tag == ORIENTATION and num_values:
            upright = bytearray(data)
            struct.pack_into(letter, upright, position, 1)
            return bytes(upright)
    return data


_WHOLE_NUMBERS = 1
_COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}


def _read_tiff(data: memoryview) -> Header:
    tags = read_tiff_tags(data)

    def first(tag: int, default: int) -> int:
        return tags[tag][0] if tags.get(tag) else default

    depth = first(BITS, 1)
    if depth > 16 or first(SAMPLE_FORMAT, _WHOLE_NUMBERS) != _WHOLE_NUMBERS:
        raise _unsupported(f"a TIFF of {depth} bits that are no whole numbers up to 65,535")
    if first(COMPRESSION, 1) not in _COMPRESSIONS:
        raise _unsupported(f"a TIFF of compression {first(COMPRESSION, 1)}")
    width, height = first(WIDTH, 0), first(HEIGHT, 0)
    rows = first(ROWS_PER_STRIP, height)
    if rows >= 1 << 31:  # the way to say that there is one strip
        rows = height
    piece_px = max(width * rows, first(TILE_WIDTH, 0) * first(TILE_HEIGHT, 0))
    return Header("TIFF", width, height, first(CHANNELS, 1), depth, piece_px)


def _read_webp(data: memoryview) -> Header:
    kind = bytes(data[8:16])
    if len(kind) == 8 and kind[:4] != b"WEBP":
        raise _no_image(data)
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
}
_OTHER_IMAGES: Final = (
    (0, b"GIF8", "a GIF"),
    (0, b"II+\0", "a BigTIFF"),
    (0, b"MM\0+", "a BigTIFF"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (4, b"ftyp", "an AVIF, HEIF or video"),
    (0, b"v/1\x01", "an OpenEXR"),
    (0, b"P5\n", "a PGM"),
    (0, b"P6\n", "a PPM"),
)
_NO_IMAGES: Final = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"<!DOCTYPE": "an HTML page",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML document",
    b"PAR1": "a Parquet file",
}
