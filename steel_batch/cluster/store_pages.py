"""Maps pages of Ray's object store into a process before it writes to them.

A process maps a page of shared memory when it first touches it. Writing maps one at a time, in 1 to
5 µs: an image of 105 kB has 26, and a read task touches each page of a store of gigabytes. Reading
maps sixteen of those that other processes have filled already, and writing to them is then free.

Source: mincore(2), madvise(2).
"""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path
from typing import Final

import numpy as np

_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ, from Linux 5.14 on: where there is no memory, it fails and does not crash."""
_WINDOW_BYTES: Final = 32 << 20
_LEAST_FILLED: Final = 0.9
"""Share of a window's pages that are in use; mapping the others fills them with zeros."""
_STORE: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) rw-s \S+ \S+ \S+ +/dev/shm/plasma", re.MULTILINE
)


class StorePages:
    """The pages of Ray's object store that this process has mapped. For one thread at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._start = self._end = 0
        """Addresses of what is not mapped yet."""
        self.num_bytes = 0
        """Bytes that were mapped ahead."""

    def map_filled(self) -> None:
        """Map the pages that are in use by now; does nothing where that is not possible."""
        if not self._end and not self._find():
            return
        while self._start + _WINDOW_BYTES <= self._end and self._is_filled():
            window = ctypes.c_void_p(self._start), ctypes.c_size_t(_WINDOW_BYTES)
            if self._libc.madvise(*window, _POPULATE_READ):
                self._start = self._end  # an older kernel
                return
            self._start += _WINDOW_BYTES
            self.num_bytes += _WINDOW_BYTES

    def _find(self) -> bool:
        """Find the store's memory, which Ray maps with the first object that is written or read."""
        try:
            found = _STORE.search(Path("/proc/self/maps").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if found is not None:
            self._start, self._end = (int(address, 16) for address in found.groups())
        return found is not None

    def _is_filled(self) -> bool:
        """Whether most of the next window is in use, by whichever process."""
        pages = np.zeros(_WINDOW_BYTES // mmap.PAGESIZE, np.uint8)
        window = ctypes.c_void_p(self._start), ctypes.c_size_t(_WINDOW_BYTES)
        failed = self._libc.mincore(*window, pages.ctypes.data_as(ctypes.c_void_p))
        return not failed and float((pages & 1).mean()) >= _LEAST_FILLED
