"""JPEGs taken apart into their restart intervals and scans, and put together otherwise."""

from __future__ import annotations

import struct
from collections.abc import Sequence

RESTARTS = [bytes([0xFF, 0xD0 + number]) for number in range(8)]


def scan_of(jpeg: bytes) -> tuple[int, int]:
    """Where the pixels of the first scan begin and end."""
    begin = jpeg.index(b"\xff\xda")
    begin += 2 + int.from_bytes(jpeg[begin + 2 : begin + 4], "big")
    end = begin
    while jpeg[end] != 0xFF or jpeg[end + 1] == 0 or jpeg[end : end + 2] in RESTARTS:
        end += 1
    return begin, end


def intervals_of(jpeg: bytes) -> list[bytes]:
    """The pixels of the first scan between restart markers."""
    begin, end = scan_of(jpeg)
    pixels, parts, start = jpeg[begin:end], [], 0
    for at in range(len(pixels) - 1):
        if pixels[at : at + 2] in RESTARTS:
            parts.append(pixels[start:at])
            start = at + 2
    return [*parts, pixels[start:]]


def with_intervals(
    jpeg: bytes, intervals: Sequence[bytes], numbers: Sequence[int] | None = None
) -> bytes:
    """The same JPEG with other pixels between its restart markers, numbered so."""
    begin, end = scan_of(jpeg)
    if numbers is None:
        numbers = range(len(intervals) - 1)
    pixels = intervals[0]
    for number, interval in zip(numbers, intervals[1:], strict=True):
        pixels += RESTARTS[number % 8] + interval
    return jpeg[:begin] + pixels + jpeg[end:]


def with_restart_interval(jpeg: bytes, interval: int) -> bytes:
    """The same JPEG with another restart interval in its header, stated once more if it has one."""
    at = jpeg.index(b"\xff\xda")
    return jpeg[:at] + struct.pack(">BBHH", 0xFF, 0xDD, 4, interval) + jpeg[at:]


def scans_of(jpeg: bytes) -> tuple[bytes, list[bytes], bytes]:
    """What comes before the first scan, each scan with the tables before it, and the end."""
    pieces, at = [], jpeg.index(b"\xff\xda")
    head, start = jpeg[:at], at
    while jpeg[at : at + 2] != b"\xff\xd9":
        is_scan = jpeg[at + 1] == 0xDA
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if is_scan:
            while jpeg[at] != 0xFF or jpeg[at + 1] == 0 or jpeg[at : at + 2] in RESTARTS:
                at += 1
            pieces.append(jpeg[start:at])
            start = at
    return head, pieces, jpeg[start:]
