"""Checks that a JPEG's scans and restart markers are complete and in order.

Decoders differ in how they handle missing or misordered restart markers: libjpeg guesses which rows
are lost, hardware reports success with wrong pixels. So the headers are checked against what
follows them: how many restart intervals each scan has, how they are numbered, how short one can be,
and that every channel arrives exactly once, at its full precision.

Source: ITU-T T.81, sections A.2, B.2, F.1.2, G.1 and H.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.errors import DecodeError
from steel_batch.images.markers import (
    ARITHMETIC,
    END,
    FRAMES,
    LOSSLESS,
    PROGRESSIVE,
    SCAN,
    Markers,
)

MAX_SCANS: Final = 100
"""A progressive JPEG has about ten. Each scan visits every pixel, so 60 kB of empty scans keep a
decoder busy for a minute."""
_APPLICATION_2, _INDEX = 0xE2, b"MPF\0"
_START, _NUM_LINES, _INTERVAL = 0xD8, 0xDC, 0xDD
_AFTER_SCAN: Final = frozenset(
    {0xC4, 0xCC, END, SCAN, 0xDB, _NUM_LINES, _INTERVAL, *range(0xE0, 0xF0), 0xFE}
)
"""Markers that may follow a scan: the end, tables, another scan, application data, a comment."""
_NUM_COEFFICIENTS: Final = 64
_UNSENT: Final = -1


def check_scans(data: memoryview) -> tuple[int, int | None]:
    """Refuse a JPEG with a part that is missing, repeated or out of order.

    Args:
        data: The file; bytes after the image's end are fine.

    Returns:
        The position of the image's end marker, and of the segment that lists the file's images, if
        there is one.

    Raises:
        DecodeError: Code ``truncated`` if the image ends early, ``undecodable``, or ``too_large``
            for more than `MAX_SCANS` scans.
        struct.error: The file ends before the image does.
    """
    markers = Markers(data)
    if markers.has_more_scans_than(MAX_SCANS):
        raise DecodeError(
            f"JPEG of more than {MAX_SCANS} scans; no encoder writes them.", code="too_large"
        )
    frame: _Frame | None = None
    scan: _Scan | None = None
    index: int | None = None
    interval = num_scans = 0
    for found, marker, begin in markers.segments():
        if marker == _START:
            raise DecodeError(
                f"JPEG that stops at byte {found}, where another one begins.", code="truncated"
            )
        if num_scans and marker not in _AFTER_SCAN:
            raise DecodeError(f"JPEG with a damaged byte among its pixels, near {found}.")
        if scan is not None:
            scan.check(markers, begin, found)
            scan = None
        if marker in FRAMES:
            if frame is not None:
                raise DecodeError(f"JPEG with a second frame header, at byte {found}.")
            frame = _Frame(data, found)
        elif marker == _INTERVAL:
            length, interval = struct.unpack_from(">HH", data, found + 2)
            if length != 4:
                raise DecodeError(f"JPEG with a damaged restart interval, at byte {found}.")
        elif marker == _APPLICATION_2 and bytes(data[found + 4 : found + 8]) == _INDEX:
            index = found
        elif marker == _NUM_LINES and frame is not None:
            (height,) = struct.unpack_from(">H", data, found + 4)
            if height != frame.height:
                raise DecodeError(
                    f"JPEG of {frame.height} rows according to its header, and of {height} "
                    "according to the segment after its pixels."
                )
        elif marker == SCAN:
            num_scans += 1
            if frame is None:
                raise DecodeError("JPEG with pixels before its frame header.")
            scan = frame.begin_scan(data, found, interval)
    if frame is None or not num_scans:
        raise struct.error("no scan")
    frame.check_complete(num_scans)
    return found, index


class _Frame:
    """A frame header, and which parts of its channels have arrived so far."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.coding = data[at + 1]
        length, _, self.height, self._width, num_channels = struct.unpack_from(
            ">HBHHB", data, at + 2
        )
        if not num_channels or length != 8 + 3 * num_channels:
            raise DecodeError(
                f"JPEG with a damaged frame header: {length} bytes for {num_channels} channels."
            )
        channels = struct.unpack_from(f"{3 * num_channels}B", data, at + 10)
        self._ids = channels[::3]
        self._factors = [(factors >> 4, factors & 15) for factors in channels[1::3]]
        if not all(across and down for across, down in self._factors):
            raise DecodeError("JPEG with a channel that has no sampling factor.")
        self._across = max(across for across, _ in self._factors)
        self._down = max(down for _, down in self._factors)
        num_coefficients = _NUM_COEFFICIENTS if self.coding in PROGRESSIVE else 1
        self._precision = [[_UNSENT] * num_coefficients for _ in range(num_channels)]

    def begin_scan(self, data: memoryview, at: int, interval: int) -> _Scan:
        """Record the channels of a scan.

        Raises:
            DecodeError: The scan has no channel, an undeclared one, or repeats an earlier scan.
        """
        length, num_channels = struct.unpack_from(">HB", data, at + 2)
        if not num_channels or length != 6 + 2 * num_channels:
            raise DecodeError(
                f"JPEG with a damaged scan header: {length} bytes for {num_channels} channels."
            )
        content = struct.unpack_from(f"{length - 3}B", data, at + 5)
        ids, (first, last, bits) = content[:-3:2], content[-3:]
        places: list[int] = []
        for channel in ids:
            place = next(
                (i for i, it in enumerate(self._ids) if it == channel and i not in places), None
            )
            if place is None:
                raise DecodeError(
                    f"JPEG with a scan of channel {channel}, which its frame header does not list."
                )
            places.append(place)
        if self.coding not in PROGRESSIVE:
            first = last = bits = 0  # all at once
        self._note(places, first, last, bits >> 4, bits & 15)
        num_units, num_blocks = self._units(places)
        is_arithmetic = self.coding in ARITHMETIC  # the arithmetic coder drops trailing zeros
        return _Scan(
            num_units,
            interval,
            0 if is_arithmetic else num_blocks * self._block_bits(first),
            0 if is_arithmetic else 1,
        )

    def check_complete(self, num_scans: int) -> None:
        """Refuse an image that lacks a channel or the last bits of its precision."""
        missing = sum(any(channel) for channel in self._precision)
        if missing:
            raise DecodeError(
                f"JPEG that ends after {num_scans} scans, with {missing} of {len(self._ids)} "
                "channels incomplete: its last scans are missing.",
                code="truncated",
            )

    def _note(self, places: list[int], first: int, last: int, before: int, after: int) -> None:
        """Record that coefficients `first` to `last` of some channels reach precision `after`."""
        expected = [before if before else _UNSENT] * (last + 1 - first)
        is_next = after == before - 1 if before else True
        for place in places:
            if not expected or not is_next or self._precision[place][first : last + 1] != expected:
                raise DecodeError("JPEG with a scan that is repeated or out of order.")
            self._precision[place][first : last + 1] = [after] * len(expected)

    def _units(self, places: list[int]) -> tuple[int, int]:
        """How many units a scan has (a restart marker may follow each), and blocks per unit."""
        block_px = 1 if self.coding == LOSSLESS else 8
        if len(places) > 1:
            units = _ceil(self._width, block_px * self._across)
            units *= _ceil(self.height, block_px * self._down)
            return units, sum(self._factors[i][0] * self._factors[i][1] for i in places)
        across, down = self._factors[places[0]]
        columns = _ceil(_ceil(self._width * across, self._across), block_px)
        return columns * _ceil(_ceil(self.height * down, self._down), block_px), 1

    def _block_bits(self, first: int) -> int:
        """The fewest bits that a Huffman-coded block takes."""
        if self.coding in PROGRESSIVE:
            return 0 if first else 1  # after the first coefficient, one code can end many blocks
        return 1 if self.coding == LOSSLESS else 2


@dataclass(frozen=True, slots=True)
class _Scan:
    """What a scan header promises."""

    num_units: int
    """Units of one or several blocks; a restart marker may follow each."""
    interval: int
    """Units between two restart markers; 0: no restart markers."""
    unit_bits: int
    """The fewest bits of a unit."""
    least_bits: int
    """The fewest bits of a restart interval."""

    def check(self, markers: Markers, begin: int, end: int) -> None:
        """Check the bytes of the scan's pixels against its header.

        Raises:
            DecodeError: Restart markers are missing, surplus or out of order, or an interval is too
                short for its blocks.
        """
        at, numbers = markers.restarts(begin, end)
        num_intervals = _ceil(self.num_units, self.interval) if self.interval else 1
        if len(at):
            self._check_restarts(at, numbers, begin, num_intervals)
        if len(at) < num_intervals - 1:
            raise DecodeError(
                f"JPEG with {len(at) + 1} of the {num_intervals} restart intervals of a scan: the "
                "rest is missing.",
                code="truncated",
            )
        start = int(at[-1]) + 2 if len(at) else begin
        units = self.num_units - self.interval * (num_intervals - 1)
        if end - start < self._least_bytes(units):
            raise DecodeError(
                f"JPEG with {end - start} bytes for its last {units} units of pixels: it is cut "
                "off.",
                code="truncated",
            )

    def _check_restarts(
        self,
        at: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.uint8],
        begin: int,
        num_intervals: int,
    ) -> None:
        (wrong,) = np.nonzero(numbers != np.arange(len(numbers)) & 7)
        if len(wrong):
            place = int(wrong[0])
            raise DecodeError(
                f"JPEG with restart markers out of order: found RST{numbers[place]} at byte "
                f"{at[place]}, expected RST{place & 7}."
            )
        if len(at) >= num_intervals:
            raise DecodeError(
                f"JPEG with {len(at)} restart markers in a scan of {num_intervals} intervals, "
                f"expected {num_intervals - 1}."
            )
        sizes = np.diff(at, prepend=begin - 2) - 2
        (short,) = np.nonzero(sizes < self._least_bytes(self.interval))
        if len(short):
            place = int(short[0])
            raise DecodeError(
                f"JPEG with {sizes[place]} bytes for the {self.interval} units of a restart "
                f"interval, before byte {at[place]}: too few, so they are damaged."
            )

    def _least_bytes(self, num_units: int) -> int:
        return _ceil(max(num_units * self.unit_bits, self.least_bits), 8)


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
