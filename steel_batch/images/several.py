"""Refuses files that hold several images, of which decoders silently read only one.

Nobody can know which image was meant. A smaller copy of the same image, for viewers, is accepted.

Source: CIPA DC-007 (JPEG), the PNG specification of 2025, and WebP's container specification.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from typing import Final

from steel_batch.errors import DecodeError
from steel_batch.images.header import JPEG_MAGIC, probe

_ENTRIES_TAG, _ENTRY_BYTES = 0xB002, 16
_KIND, _THUMBNAIL = 0xFF0000, 0x010000
_PADDING: Final = b"\0\r\n \xff"
_ANIMATION: Final = 0x02


def _several(name: str, num_images: int | str) -> DecodeError:
    return DecodeError(
        f"{name} of {num_images} images; only one per file is supported. Write each into a file of "
        "its own.",
        code="multiple_images",
    )


def refuse_listed_jpegs(data: memoryview, at: int) -> None:
    """Refuse a JPEG that lists several images, as cameras with two lenses write them (MPO).

    Args:
        data: The file.
        at: Position of the segment that lists them. A malformed one is ignored.

    Raises:
        DecodeError: Code ``multiple_images``.
    """
    with contextlib.suppress(struct.error, IndexError):
        base = at + 8
        order = "<" if data[base] == ord("I") else ">"
        (place,) = struct.unpack_from(order + "I", data, base + 4)
        (num_tags,) = struct.unpack_from(order + "H", data, base + place)
        for entry in range(base + place + 2, base + place + 2 + 12 * num_tags, 12):
            tag, _, num_bytes, position = struct.unpack_from(order + "HHII", data, entry)
            if tag != _ENTRIES_TAG:
                continue
            num_images = 0
            for image in range(base + position, base + position + num_bytes, _ENTRY_BYTES):
                (attributes,) = struct.unpack_from(order + "I", data, image)
                num_images += attributes & _KIND != _THUMBNAIL
            if num_images > 1:
                raise _several("JPEG", num_images)
            return  # a list that comes again is as long again


def refuse_second_jpeg(data: memoryview, end: int) -> None:
    """Refuse a JPEG that is followed by another one of the same size, as in motion JPEG.

    Args:
        data: The file.
        end: Position of the first image's end marker.

    Raises:
        DecodeError: Code ``multiple_images``.
    """
    if len(data) <= end + 4:
        return
    rest = bytes(data[end + 2 :]).lstrip(_PADDING)
    begin = len(data) - len(rest) - 1
    if bytes(data[begin : begin + 2]) != JPEG_MAGIC:
        return
    first = probe(data)
    try:
        second = probe(data[begin:])
    except DecodeError:  # not a JPEG, although it begins like one
        return
    if (first.width, first.height) == (second.width, second.height):
        raise _several("JPEG", "2 or more")


def refuse_animated_png(num_frames: int, kinds: Sequence[bytes]) -> None:
    """Refuse an animation of several frames.

    Args:
        num_frames: The number that the file states.
        kinds: Types of its chunks, in order. If no frame is declared before the first pixels, those
            pixels are an image in addition to the frames.

    Raises:
        DecodeError: Code ``multiple_images``.
    """
    before_pixels = kinds[: kinds.index(b"IDAT")] if b"IDAT" in kinds else kinds
    num_images = num_frames + (b"fcTL" not in before_pixels)
    if num_images > 1:
        raise _several("PNG", num_images)


def refuse_animated_webp(data: memoryview) -> None:
    """Refuse any animation: even a single frame is placed on a canvas and is not the image.

    Raises:
        DecodeError: Code ``multiple_images``.
        struct.error: The file ends inside a chunk's header.
    """
    if bytes(data[12:16]) != b"VP8X" or not data[20] & _ANIMATION:
        return
    (size,) = struct.unpack_from("<I", data, 4)
    position, num_frames = 12, 0
    while position + 8 <= min(size + 8, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        num_frames += kind == b"ANMF"
        position += 8 + length + length % 2
    raise _several("animated WebP", num_frames)
