"""Checks that the strips or tiles of a TIFF hold all of their pixels.

OpenCV silently leaves rows black if a strip does not decode. So each strip's decoded size is
counted beforehand, by the rules of libtiff.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import DecodeError
from steel_batch.images.tiff import (
    BITS,
    CHANNELS,
    COMPRESSION,
    HEIGHT,
    PHOTOMETRIC,
    PLANES,
    ROWS_PER_STRIP,
    SEPARATE_PLANES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
    YCBCR,
    Tags,
    first,
)

_SHARED_BYTES: Final = 64 << 20
"""What strips may have in common: writers store equal ones once."""


def check_strips(data: memoryview, tags: Tags, limits: Limits = LIMITS) -> None:
    """Refuse a TIFF whose strips or tiles are not whole.

    Args:
        data: The file.
        tags: Of the page that is its image.
        limits: The most strips or tiles are its `tiff_pieces`.

    Raises:
        struct.error: A strip lies outside of the file, or there are too few.
        DecodeError: A strip does not decode to all of its pixels, or there are too many.
    """
    if first(tags, PHOTOMETRIC, 0) == YCBCR:  # its channels may differ in size
        return
    unpacked_bytes = _UNPACKED.get(first(tags, COMPRESSION, 1))
    is_tiled = TILE_OFFSETS in tags
    offsets = tags.get(TILE_OFFSETS if is_tiled else STRIP_OFFSETS, ())
    sizes = tags.get(TILE_BYTES if is_tiled else STRIP_BYTES, ())
    num_pieces = _num_pieces(tags, is_tiled=is_tiled)
    if num_pieces > limits.tiff_pieces:
        raise DecodeError(
            f"TIFF of {num_pieces:,} strips or tiles; at most {limits.tiff_pieces:,} are read "
            "(limit tiff-pieces).",
            code="too_large",
        )
    if len(offsets) < num_pieces:
        raise struct.error
    wanted = _wanted_bytes(tags, is_tiled=is_tiled)
    left_bytes = len(data) + _SHARED_BYTES
    for i, num_bytes in enumerate(wanted):
        offset = offsets[i]
        size = sizes[i] if i < len(sizes) else len(data) - offset
        if unpacked_bytes is None:
            size = num_bytes
        if offset + size > len(data):
            raise struct.error
        left_bytes -= size
        if left_bytes < 0:
            raise DecodeError("TIFF whose strips or tiles overlap: they are larger than the file.")
        if unpacked_bytes is not None:
            found = unpacked_bytes(data[offset : offset + size], num_bytes)
            if found < num_bytes:
                raise DecodeError(
                    f"TIFF with a damaged {'tile' if is_tiled else 'strip'}: number {i + 1} of "
                    f"{len(wanted)} decodes to {found} bytes of pixels, expected {num_bytes}."
                )


def _num_pieces(tags: Tags, *, is_tiled: bool) -> int:
    """How many strips or tiles there have to be."""
    width, height = first(tags, WIDTH, 0), first(tags, HEIGHT, 0)
    num_planes = first(tags, CHANNELS, 1) if _has_planes(tags) else 1
    if is_tiled:
        tile_width, tile_height = first(tags, TILE_WIDTH, 0), first(tags, TILE_HEIGHT, 0)
        if not tile_width or not tile_height:
            raise DecodeError("TIFF with tiles of no size.")
        return -(-width // tile_width) * -(-height // tile_height) * num_planes
    rows = min(first(tags, ROWS_PER_STRIP, height), height)
    if not rows:
        raise DecodeError("TIFF with strips of no rows.")
    return -(-height // rows) * num_planes


def _wanted_bytes(tags: Tags, *, is_tiled: bool) -> list[int]:
    """How many bytes each strip or tile has to give."""
    num_pieces = _num_pieces(tags, is_tiled=is_tiled)
    bits = first(tags, BITS, 1) * (1 if _has_planes(tags) else first(tags, CHANNELS, 1))
    if is_tiled:
        tile_width, tile_height = first(tags, TILE_WIDTH, 0), first(tags, TILE_HEIGHT, 0)
        return [-(-tile_width * bits // 8) * tile_height] * num_pieces
    width, height = first(tags, WIDTH, 0), first(tags, HEIGHT, 0)
    rows = min(first(tags, ROWS_PER_STRIP, height), height)
    row_bytes = -(-width * bits // 8)
    plane = [row_bytes * min(rows, height - top) for top in range(0, height, rows)]
    return plane * (num_pieces // len(plane))


def _has_planes(tags: Tags) -> bool:
    return first(tags, PLANES, 1) == SEPARATE_PLANES


def _deflate_bytes(strip: memoryview, wanted: int) -> int:
    inflate = zlib.decompressobj()
    try:
        return len(inflate.decompress(strip, wanted + 1))
    except zlib.error:
        return 0


def _packbits_bytes(strip: memoryview, wanted: int) -> int:
    total, position = 0, 0
    while position < len(strip) and total < wanted:
        code = strip[position]
        if code < 128:
            total += min(code + 1, len(strip) - position - 1)
            position += code + 2
        else:
            if code > 128 and position + 1 < len(strip):
                total += 257 - code
            position += 1 if code == 128 else 2
    return total


_CLEAR, _STOP, _FIRST, _NUM_CODES = 256, 257, 258, 4096
_ADDED: Final = np.maximum(np.arange(_NUM_CODES - _FIRST + 2) - 1, 0)
"""Entries added to the table before the nth code after a clear code."""
_CODE_BITS: Final = 9 + np.searchsorted([511, 1023, 2047], _ADDED + _FIRST, side="right")
_CODE_AT: Final = np.cumsum(_CODE_BITS) - _CODE_BITS
_FEW_CLEARS, _CODES_A_CLEAR = 16, 64
"""Encoders clear their table when it is full, after some 4,000 codes. A strip that clears it for
every code would take minutes."""


def _lzw_bytes(strip: memoryview, wanted: int) -> int:
    """How many bytes an LZW strip decodes to before it ends or breaks.

    The width of a code depends only on how many codes came since the last clear code, so all codes
    up to the next one are read at once. The lengths of their strings follow from which earlier code
    each one extends.
    """
    content = np.frombuffer(bytes(strip) + b"\0\0\0", np.uint8).astype(np.uint32)
    triples = content[:-2] << 16 | content[1:-1] << 8 | content[2:]
    num_bits, begin, total = 8 * len(strip), 9, 0
    left_clears = _FEW_CLEARS + num_bits // (9 * _CODES_A_CLEAR)
    if len(strip) < 2 or triples[0] >> 15 != _CLEAR:
        return 0
    while total < wanted:
        at = begin + _CODE_AT
        num = int(np.searchsorted(at + _CODE_BITS, num_bits, side="right"))
        at, bits = at[:num], _CODE_BITS[:num]
        codes = (triples[at >> 3] >> (24 - (at & 7) - bits)).astype(np.int64) & ((1 << bits) - 1)
        ends = np.flatnonzero((codes == _CLEAR) | (codes == _STOP) | (codes > _ADDED[:num] + 258))
        end = int(ends[0]) if len(ends) else num
        total += _string_bytes(codes[:end])
        left_clears -= 1
        if end == num or codes[end] != _CLEAR or not left_clears:
            break
        begin = int(at[end] + bits[end])
    return total


def _string_bytes(codes: npt.NDArray[np.int64]) -> int:
    """How many bytes some codes decode to: each one, or one more than the code that it extends."""
    if len(codes) and codes[0] >= _FIRST:
        return 0
    size = np.ones(len(codes), np.int64)
    refers = np.where(codes >= _FIRST, codes - _FIRST, -1)
    while True:
        (further,) = np.nonzero(refers >= 0)
        if not len(further):
            return int(size.sum())
        to = refers[further]
        size[further] += size[to]
        refers[further] = refers[to]


_UNPACKED: Final[dict[int, Callable[[memoryview, int], int]]] = {
    5: _lzw_bytes,
    8: _deflate_bytes,
    32946: _deflate_bytes,
    32773: _packbits_bytes,
}
