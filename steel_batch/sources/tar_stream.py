"""A tar as a stream of which only the headers are read, a window of bytes at a time.

In a bucket, a request takes some 30 ms and a millisecond of CPU, as much as 1 MiB more of an answer
does. So a window covers many headers where the members are small. Where they are large, each header
has a window of its own, and the contents are skipped.
"""

from __future__ import annotations

import io
import tarfile
from typing import Final

from steel_batch.config import LIMITS
from steel_batch.lake import Lake
from steel_batch.lake.seekable import Seekable
from steel_batch.sources.magic import MAGIC_BYTES

BLOCK_BYTES: Final = tarfile.BLOCKSIZE
WINDOW_BYTES: Final = 8 << 10
"""Size of one request for a header."""
READ_THROUGH_BYTES: Final = 128 << 10
"""Where headers are closer than this on average, what lies between them is read as well."""
MAX_WINDOW_BYTES: Final = 2 << 20
"""Size of the largest window: some sixty of them may be held at once."""
MAX_HEADER_BYTES: Final = LIMITS.tar_header_bytes
"""Upper limit of a name or extended header; no tool writes longer ones."""

_GROWTH: Final = 4
_AVERAGED: Final = 8
"""About how many of the last members count for the average distance of headers."""
_MAGIC: Final = b"ustar"
_MAGIC_AT: Final = 257
"""Where it is in a header."""


class HeaderStream(Seekable):
    """A tar as a stream for tarfile: a window of bytes, moved by range requests.

    Args:
        lake: Where the tar is.
        key: Its key.
        size_bytes: Its size.
        etag: Its etag.
        header_bytes: The most that is read for one member.
        read_through: Whether small members are read together with the headers.
        until: Where the caller will stop: nothing behind it is read ahead.
    """

    def __init__(
        self,
        lake: Lake,
        key: str,
        size_bytes: int,
        etag: str,
        header_bytes: int = MAX_HEADER_BYTES,
        *,
        read_through: bool = False,
        until: int | None = None,
    ) -> None:
        super().__init__(size_bytes)
        self._lake, self._key, self._etag = lake, key, etag
        self.header_bytes, self._read_bytes = header_bytes, 0
        self._start, self._window = 0, b""
        self._read_through = read_through
        self._until = size_bytes if until is None else until
        self._window_bytes = WINDOW_BYTES
        self._member: int | None = None
        self._distance: float | None = None

    def begin_member(self, position: int | None = None) -> None:
        """What is read from here on is the headers of one member.

        Args:
            position: Where they begin. The distances decide how much is read at once.
        """
        self._read_bytes = 0
        if position is None:
            return
        if self._member is not None:
            distance = position - self._member
            if self._distance is None:
                self._distance = distance
            self._distance += (distance - self._distance) / _AVERAGED
        self._member = position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position from the beginning; makes no request."""
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"cannot seek to {offset}")
        self._position = offset
        return offset

    def beginning(self) -> bytes:
        """The first bytes of the file."""
        self.begin_member()
        self.seek(0)
        return self.read(MAGIC_BYTES)

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer at the end.

        Raises:
            ValueError: `size` is larger than any header.
        """
        if size != 1:  # tarfile looks whether there is a byte before a header
            self._read_bytes += max(0, size)
        if size < 0 or self._read_bytes > self.header_bytes:
            raise ValueError(
                f"a header of {self._read_bytes:,} bytes, at most {self.header_bytes:,} are read "
                "(limit tar-header-bytes)"
            )
        first, last = self._position, min(self._position + size, self.size_bytes)
        if last <= first:
            return b""
        if first < self._start or last > self._start + len(self._window):
            most = max(WINDOW_BYTES, self._until - first)
            self._fetch(first, max(size, min(self._next_window(), most)))
        self._position = last
        return self._window[first - self._start : last - self._start]

    def find_header(self, start: int, stop: int) -> int | None:
        """The position of the first block in a range that is a header; None if none is.

        It may be content that looks like one, such as a member that is itself a tar.
        """
        length, stop = READ_THROUGH_BYTES, min(stop, self.size_bytes)
        while start < stop:
            self._fetch(start, min(length, stop - start))
            found = self._window.find(_MAGIC)
            while found >= 0:
                block = found - _MAGIC_AT
                if block >= 0 and block % BLOCK_BYTES == 0 and self._is_header(block):
                    return start + block
                found = self._window.find(_MAGIC, found + 1)
            start += len(self._window)
            length = min(2 * length, MAX_WINDOW_BYTES)
        return None

    def release(self) -> None:
        """Free the window, and read on behind `until`."""
        self._start, self._window = 0, b""
        self._until = self.size_bytes

    def _is_header(self, block: int) -> bool:
        try:
            data = self._window[block : block + BLOCK_BYTES]
            tarfile.TarInfo.frombuf(data, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError):
            return False
        return True

    def _next_window(self) -> int:
        if not self._read_through or self._distance is None:
            return WINDOW_BYTES
        if self._distance > READ_THROUGH_BYTES:
            self._window_bytes = WINDOW_BYTES
        else:
            self._window_bytes = min(_GROWTH * self._window_bytes, MAX_WINDOW_BYTES)
        return self._window_bytes

    def _fetch(self, first: int, length: int) -> None:
        self._start, self._window = 0, b""  # freed before the next one is read
        length = min(length, self.size_bytes - first)
        self._window = self._lake.read(self._key, offset=first, length=length, etag=self._etag)
        self._start = first
