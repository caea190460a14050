"""Finds the markers of a JPEG without decoding it.

Source: ITU-T T.81, section B.1.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.errors import DecodeError

END, SCAN = 0xD9, 0xDA
FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Frame header markers; each states how the pixels are coded."""
LOSSLESS, PROGRESSIVE, ARITHMETIC = 0xC3, (0xC2, 0xCA), (0xC9, 0xCA)
_TEMPORARY: Final = 0x01
_MOST_MARKERS: Final = 1 << 20
_MOST_FILLING: Final = 8
"""A coder restarts after some hundred bytes at least; a marker in 8 is none that one made. Below
that many it does not matter."""


class Markers:
    """Where the markers of a JPEG lie.

    Raises:
        DecodeError: There are more than any image has: noting them would take many times its bytes.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        content = np.frombuffer(data, np.uint8)
        # FF 00 is an escaped 0xFF among the pixels, FF FF is padding.
        is_marked = content[:-1] == 0xFF
        np.logical_and(is_marked, content[1:], out=is_marked)
        if len(content) > _MOST_MARKERS:
            num = int(np.count_nonzero(is_marked))
            if num > max(_MOST_MARKERS, len(content) // _MOST_FILLING):
                raise DecodeError(f"JPEG of which {num:,} of {len(data):,} bytes are markers.")
        at = np.flatnonzero(is_marked)
        code = content[at + 1]
        is_marker = code != 0xFF
        at, code = at[is_marker], code[is_marker]
        is_restart = code & 0xF8 == 0xD0
        is_other = ~is_restart
        if np.count_nonzero(is_other) > _MOST_MARKERS:
            raise DecodeError(f"JPEG with more than {_MOST_MARKERS:,} markers.")
        self._restart_at, self._restart = at[is_restart], code[is_restart] & 7
        self._at, self._code = at[is_other].tolist(), code[is_other].tolist()

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """Yield where each segment begins, its marker, and where the segment before it ended.

        Segments are skipped as a whole, so a thumbnail's markers are not visited. The last segment
        is the end of the image.

        Raises:
            struct.error: The file ends before the image does.
        """
        behind = 2
        for found, marker in zip(self._at, self._code, strict=True):
            if found < behind:
                continue
            yield found, marker, behind
            if marker == END:
                return
            if marker == _TEMPORARY:
                behind = found + 2
            else:
                (length,) = struct.unpack_from(">H", self._data, found + 2)
                behind = found + 2 + length
        raise struct.error("no end")

    def has_more_scans_than(self, limit: int) -> bool:
        """Whether the image has more than `limit` scans, in the part that is present."""
        if self._code.count(SCAN) <= limit:
            return False
        with contextlib.suppress(struct.error):
            return sum(marker == SCAN for _, marker, _ in self.segments()) > limit
        return False

    def restarts(self, begin: int, end: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Positions of the restart markers between two offsets, and their numbers (0 to 7)."""
        first, last = self._restart_at.searchsorted([begin, end])
        return self._restart_at[first:last], self._restart[first:last]


def first_scan(data: memoryview) -> tuple[int, int]:
    """Where the pixels of the first scan begin and end; the file must have passed `check_scans`."""
    segments = Markers(data).segments()
    next(found for found, marker, _ in segments if marker == SCAN)
    end, _, begin = next(segments)
    return begin, end
