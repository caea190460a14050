"""BMP: reads the header, and pixels of 16 or 32 bits that use their own colour masks.

OpenCV assumes the default channel order for most of these files, so red and blue are swapped or the
image is noise. It also refuses 16 bits under newer headers. Such files are decoded here instead.

Source: Microsoft's description of BITMAPINFOHEADER, BITMAPV4HEADER and BITMAPV5HEADER.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.errors import DecodeError
from steel_batch.images.formats import not_an_image, unsupported

PLAIN, FIELDS, ALPHA_FIELDS = 0, 3, 6
_COMPRESSIONS: Final = frozenset({PLAIN, FIELDS, ALPHA_FIELDS})
_RUN_LENGTHS: Final = "run-length-encoded pixels"
"""Not read: they may skip pixels or end early, which decoders fill with black without an error."""
_OTHER_CONTENT: Final = {
    1: _RUN_LENGTHS, 2: _RUN_LENGTHS, 4: "a JPEG", 5: "a PNG", 11: "CMYK", 12: "CMYK", 13: "CMYK"
}  # fmt: skip
_DEPTHS: Final = (1, 4, 8, 16, 24, 32)
_SIZES: Final = (40, 52, 56, 64, 108, 124)
_OLD_SIZE: Final = 12
_FIELDS_AT: Final = 14 + 40
"""Right after the oldest header that has masks, and inside the newer headers."""
_USUAL: Final = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}
"""Red, green and blue where nothing is said."""
_PIXELS_AT_ONCE: Final = 1 << 20
"""Each takes some thirty bytes on the way."""


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """The parts of the header that decoding needs."""

    width: int
    height: int
    """Negative if rows are stored top to bottom."""
    depth: int
    """Bits per pixel."""
    compression: int
    offset: int
    """Where the pixels begin, in bytes."""
    fields: tuple[int, int, int] | None
    """Bit masks of red, green and blue; None if the format has no masks."""

    @property
    def row_bytes(self) -> int:
        """Bytes per row, padded to a multiple of four."""
        return (self.width * self.depth + 31) // 32 * 4

    @property
    def num_channels(self) -> int:
        """Samples per pixel."""
        return 3 if self.depth == 16 else max(1, self.depth // 8)

    @property
    def own_fields(self) -> tuple[int, int, int] | None:
        """The masks, if OpenCV would misread them and `read_fields` has to decode the pixels."""
        return None if self.fields == _USUAL[32] else self.fields


def read_bmp_header(data: memoryview) -> BmpHeader:
    """Read the header.

    Raises:
        DecodeError: The header is damaged, or this kind of BMP is not supported.
        struct.error: The file ends inside its header.
    """
    offset, size = struct.unpack_from("<II", data, 10)
    compression = PLAIN
    if size == _OLD_SIZE:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    elif size in _SIZES:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise not_an_image(data)
    if compression in _OTHER_CONTENT:
        raise unsupported(f"a BMP that holds {_OTHER_CONTENT[compression]}")
    if compression not in _COMPRESSIONS:
        raise DecodeError(f"BMP with a damaged header: compression {compression}.")
    if depth not in _DEPTHS:
        raise unsupported(f"a BMP of {depth} bits per pixel")
    fields = None
    if compression in (FIELDS, ALPHA_FIELDS):
        if depth not in _USUAL:
            raise DecodeError(f"BMP with a damaged header: masks with {depth} bits per pixel.")
        fields = struct.unpack_from("<III", data, _FIELDS_AT)
        _check_fields(fields, depth)
    elif depth == 16:
        fields = _USUAL[16]
    return BmpHeader(width, height, depth, compression, offset, fields)


def _check_fields(fields: tuple[int, int, int], depth: int) -> None:
    red, green, blue = fields
    is_apart = not (red & green or red & blue or green & blue)
    if not is_apart or not all(0 < field < 1 << depth and _is_run(field) for field in fields):
        raise DecodeError(
            f"BMP with a damaged header: invalid colour masks {red:#x}, {green:#x} and {blue:#x} "
            "for red, green and blue."
        )


def _is_run(field: int) -> bool:
    """Whether the bits of a mask are contiguous."""
    run = field // (field & -field)
    return run & (run + 1) == 0


def read_fields(
    data: memoryview, header: BmpHeader, fields: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Decode a complete BMP with colour masks to gray pixels, [H, W].

    Each colour is scaled to 8 bits, then converted to gray with OpenCV's weights.
    """
    height, pixel_bytes = abs(header.height), header.depth // 8
    content = np.frombuffer(data, np.uint8, header.row_bytes * height, header.offset)
    rows = content.reshape(height, header.row_bytes)[:, : header.width * pixel_bytes]
    gray_HW = np.empty((height, header.width), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // header.width)
    for top in range(0, height, step):
        part_HW = np.ascontiguousarray(rows[top : top + step]).view(f"<u{pixel_bytes}")
        part_HW = part_HW.astype(np.uint32)
        colours = [_scaled(part_HW, field) for field in fields]
        gray_HW[top : top + step] = cv2.cvtColor(np.dstack(colours[::-1]), cv2.COLOR_BGR2GRAY)
    return gray_HW[::-1] if header.height > 0 else gray_HW


def _scaled(pixels_HW: npt.NDArray[np.uint32], field: int) -> npt.NDArray[np.uint8]:
    greatest = field // (field & -field)
    values_HW = (pixels_HW & field) // (field & -field)
    if greatest > 255:
        return (values_HW >> (greatest.bit_length() - 8)).astype(np.uint8)
    return ((values_HW * 255 + greatest // 2) // greatest).astype(np.uint8)
