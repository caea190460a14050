"""Recognises, by their headers, plain JPEGs that every decoder reads alike.

Hardware and GPU decoders read most of what libjpeg reads. They differ in the rare forms: several
scans, arithmetic coding, omitted tables, RGB stored without conversion, unusual subsampling. Those
go to libjpeg, so that an image's pixels never depend on where it was decoded, except for rounding.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from steel_batch.images.header import JPEG_MAGIC

_BASELINE, _TABLES, _SCAN, _QUANTISATION, _INTERVAL, _ADOBE = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD, 0xEE
_BEFORE_SCAN: Final = frozenset(
    {_BASELINE, _TABLES, _SCAN, _QUANTISATION, _INTERVAL, 0xFE, *range(0xE0, 0xF0)}
)
"""Tables, the restart interval, a comment, application data; any other segment is not plain."""
_GRAY: Final = bytes([0x11])
"""Other factors have no meaning for one channel. libjpeg ignores them; nvJPEG does not, and reports
success with wrong pixels."""
_SAMPLINGS: Final = frozenset(bytes([luma, 0x11, 0x11]) for luma in (0x11, 0x12, 0x21, 0x22))
"""Luma in full resolution and chroma in full or half: 4:4:4, 4:4:0, 4:2:2, 4:2:0."""


def is_plain_jpeg(data: Any, height: int, width: int) -> bool:
    """Whether a file is a plain JPEG of this size, according to its headers.

    Plain is baseline with 8 bits, one scan, at most one restart interval, its own Huffman and
    quantisation tables, and gray with one block per unit or YCbCr. An EXIF orientation and a
    thumbnail do not matter. `wholeness.check_whole` checks whether the pixels are complete and in
    order.

    Args:
        data: The file, as any buffer.
        height: In pixels, as stored.
        width: In pixels, as stored.
    """
    view = memoryview(data).cast("B")
    try:
        return bytes(view[: len(JPEG_MAGIC)]) == JPEG_MAGIC and _is_plain(view, height, width)
    except (struct.error, IndexError):
        return False


def _is_plain(view: memoryview, height: int, width: int) -> bool:
    seen: set[int] = set()
    position, num_channels, stores_rgb = 2, 0, False
    while True:
        start, marker, length = struct.unpack_from(">BBH", view, position)
        if start != 0xFF or marker not in _BEFORE_SCAN:
            return False
        content = position + 4
        if marker == _SCAN:
            is_one_scan = view[content] == num_channels
            has_tables = {_BASELINE, _TABLES, _QUANTISATION} <= seen
            return has_tables and is_one_scan and not (num_channels == 3 and stores_rgb)
        if marker == _BASELINE:
            frame = struct.unpack_from(">BHHB", view, content)
            num_channels = frame[3]
            channels = bytes(view[content + 6 : content + 6 + 3 * num_channels])
            is_ycc = channels[::3] == b"\x01\x02\x03" and channels[1::3] in _SAMPLINGS
            is_gray = num_channels == 1 and channels[1::3] == _GRAY
            if marker in seen or frame[:3] != (8, height, width) or not (is_gray or is_ycc):
                return False
        if marker == _ADOBE and bytes(view[content : content + 5]) == b"Adobe":
            stores_rgb = view[content + 11] == 0
        if marker == _INTERVAL and marker in seen:
            return False
        seen.add(marker)
        position += 2 + length
