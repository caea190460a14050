"""From compressed bytes to gray pixels, refusing what would harm before it is allocated.

Headers are read first: the format, the size and whether the file is whole. Pixels come from
OpenCV. Colours become gray by OpenCV's weights, 16-bit samples are divided by 256, transparency is
ignored, and so is an orientation in EXIF: masks are in the coordinates of the sensor.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.errors import ConfigError, DecodeError, ShapeError

MAX_PIXELS: Final = 64_000_000
"""Larger images are refused from their header: no camera of a strip makes them."""
Image = npt.NDArray[np.uint8]
Decoder = Callable[[Any], Image]

cv2.setNumThreads(1)  # images are decoded on our own threads
cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # a damaged file is an entry in the quarantine, not a line on stderr


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before it is decoded."""

    format: str
    width: int
    height: int


def load_decoder(name: str) -> Decoder:
    """The function that a ``module:function`` name means.

    Raises:
        ConfigError: There is no such function.
    """
    module, _, function = name.partition(":")
    try:
        decoder: Decoder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--decoder {name!r} is no 'module:function': {error}.") from error
    return decoder


def decode_gray(data: Any) -> Image:
    """Decode one image.

    Args:
        data: The file, as anything with a buffer; it is not copied.

    Returns:
        Gray pixels, [H, W].

    Raises:
        DecodeError: Its code is ``empty``, ``not_an_image``, ``unsupported_format``,
            ``truncated``, ``too_large`` or ``undecodable``.
    """
    view = memoryview(data).cast("B")
    header = probe(view)
    if header.width * header.height > MAX_PIXELS:
        raise DecodeError(
            f"{header.format} of {header.width}×{header.height} pixels; at most {MAX_PIXELS:,} "
            "are decoded.",
            code="too_large",
        )
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image_HW = cv2.imdecode(np.frombuffer(view, np.uint8), flags)
    except cv2.error as error:
        raise DecodeError(f"{header.format} that OpenCV refuses: {error.err}.") from error
    if image_HW is None:
        raise DecodeError(
            f"{header.format} of {header.width}×{header.height} pixels and {len(view)} bytes that "
            "cannot be decoded: its content is damaged."
        )
    return np.asarray(image_HW, np.uint8)


def probe(data: memoryview) -> Header:
    """Read a file's header.

    Raises:
        DecodeError: It is empty, no image, of a format that is not read, or cut off.
    """
    if not len(data):
        raise DecodeError("the file is empty (0 bytes).", code="empty")
    head = bytes(data[:32])
    try:
        for magic, read in _FORMATS.items():
            if head.startswith(magic):
                return read(data)
    except (struct.error, IndexError) as error:
        raise DecodeError(f"the file ends inside its header ({len(data)} bytes).",
                          code="truncated") from error  # fmt: skip
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise DecodeError(
                f"the file is {name}; JPEG, PNG, BMP, TIFF and WebP are read.",
                code="unsupported_format",
            )
    raise DecodeError(
        f"the file is no image: it begins with {head[:8]!r} ({len(data)} bytes).",
        code="not_an_image",
    )


def fit_to(image_HW: Image, height: int, width: int, resize: str) -> Image:
    """Bring an image to the engine's size.

    Args:
        image_HW: Any size.
        height: The engine's.
        width: The engine's.
        resize: The card's policy: ``never`` or ``fit``.

    Raises:
        ShapeError: It has another size and the policy is ``never``.
    """
    if image_HW.shape == (height, width):
        return image_HW
    if resize == "never":
        raise ShapeError(
            f"the image is {image_HW.shape[1]}×{image_HW.shape[0]} pixels (width × height); the "
            f"engine takes {width}×{height} and its card says resize: never."
        )
    shrinks = image_HW.shape[0] * image_HW.shape[1] > height * width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_HW, (width, height), interpolation=method), np.uint8)


def mask_to_source(mask_HW: Image, height: int, width: int) -> Image:
    """Take a mask back to the size of the image that it was made from."""
    found = cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(found, np.uint8)


_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})


def _read_jpeg(data: memoryview) -> Header:
    """Walk the segments up to the first scan; the rest must hold an end-of-image marker."""
    position, size = 2, None
    while True:
        if position + 4 > len(data):
            raise DecodeError(f"JPEG cut off before its pixels ({len(data)} bytes).",
                              code="truncated")  # fmt: skip
        if data[position] != 0xFF:
            raise DecodeError(f"JPEG with a damaged header at byte {position}.")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _BARE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (width, height)
        position += 2 + length
        if marker == 0xDA:
            break
    # In a scan 0xFF is followed by 0x00 or a restart marker, so FF D9 can only be the end.
    if bytes(data[position:]).rfind(b"\xff\xd9") < 0:
        raise DecodeError(
            f"JPEG without its end: {len(data)} bytes were written and more were meant.",
            code="truncated",
        )
    if size is None or 0 in size:
        raise DecodeError("JPEG that states no size before its pixels.")
    return Header("JPEG", *size)


def _read_png(data: memoryview) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    if bytes(data[-4096:]).rfind(b"IEND") < 0 and bytes(data).rfind(b"IEND") < 0:
        raise DecodeError(f"PNG without its end ({len(data)} bytes).", code="truncated")
    return Header("PNG", width, height)


def _read_bmp(data: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", data, 2)
    width, height = struct.unpack_from("<ii", data, 18)
    if size > len(data):
        raise DecodeError(f"BMP of {len(data)} bytes that states {size}.", code="truncated")
    return Header("BMP", abs(width), abs(height))


def _read_tiff(data: memoryview) -> Header:
    order = "<" if data[0] == 0x49 else ">"
    (offset,) = struct.unpack_from(order + "I", data, 4)
    (num_entries,) = struct.unpack_from(order + "H", data, offset)
    found = {}
    for i in range(num_entries):
        tag, kind = struct.unpack_from(order + "HH", data, offset + 2 + 12 * i)
        form = order + ("H" if kind == 3 else "I")
        (found[tag],) = struct.unpack_from(form, data, offset + 10 + 12 * i)
    if 256 not in found or 257 not in found:
        raise DecodeError("TIFF that states no size.")
    return Header("TIFF", found[256], found[257])


def _read_webp(data: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    kind = bytes(data[8:16])
    if kind[:4] != b"WEBP":
        raise DecodeError("the file is a RIFF of another kind than WebP.",
                          code="unsupported_format")  # fmt: skip
    if size + 8 > len(data):
        raise DecodeError(f"WebP of {len(data)} bytes that states {size + 8}.", code="truncated")
    if kind[4:] == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind[4:] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (v & 0x3FFF for v in struct.unpack_from("<HH", data, 26))
    return Header("WebP", width, height)


_FORMATS = {
    b"\xff\xd8": _read_jpeg,
    b"\x89PNG\r\n\x1a\n": _read_png,
    b"BM": _read_bmp,
    b"II*\0": _read_tiff,
    b"MM\0*": _read_tiff,
    b"RIFF": _read_webp,
}
_OTHERS = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML document",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"PAR1": "a Parquet file",
}
