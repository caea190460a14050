"""What streams of known size have in common: a position, and reading into a buffer."""

from __future__ import annotations

import io
from typing import Any


class Seekable(io.RawIOBase):
    """A stream for reading; a class of it says how `read` gets the bytes.

    Args:
        size_bytes: Its size.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """The position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; reads nothing.

        Raises:
            ValueError: It would be before the beginning.
        """
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"cannot seek to {position}")
        self._position = position
        return position

    def left_of(self, size: int | None) -> int:
        """How many bytes a read of `size` bytes returns; None and -1 are all that are left."""
        left = max(0, self.size_bytes - self._position)
        return left if size is None or size < 0 else min(size, left)

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read(-1) or b""

    def readinto(self, buffer: Any) -> int:
        """Read up to the size of the buffer."""
        data = self.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)
