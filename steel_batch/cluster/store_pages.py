"""Maps pages of Ray's object store into a process before it writes to them.

A process maps a page of shared memory when it first touches it. Writing maps one at a time, in 1 to
6 µs: an image of 105 kB has 26, and a read task touches each page of a store of gigabytes. Reading
maps sixteen of those that other processes have filled already, and writing to them is then free.

Source: mincore(2), madvise(2), shmem in proc_meminfo(5).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from pathlib import Path
from typing import Final

import numpy as np

_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ, from Linux 5.14 on: in a full file system, it fails and does not crash."""
_WINDOW_BYTES: Final = 32 << 20
_MOST_WINDOWS: Final = 32
"""Windows that are mapped at a time: each takes 4 ms."""
_LEAST_FILLED: Final = 0.9
"""Share of a window's pages that are in use; mapping the others fills them with zeros."""
_FOLDER: Final = "/dev/shm"  # noqa: S108 - Ray's choice
_STORE: Final = re.compile(
    rf"^([0-9a-f]+)-([0-9a-f]+) rw-s \S+ \S+ \S+ +{_FOLDER}/plasma", re.MULTILINE
)


class StorePages:
    """The pages of Ray's object store that this process has mapped. For one thread at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._start = self._end = 0
        """Addresses of what is not mapped yet."""
        self.num_bytes = 0
        """Bytes that were mapped ahead."""

    def map_filled(self) -> None:
        """Map the pages that are in use by now; does nothing where that is not possible."""
        if not self._end and not self._find():
            return
        for _ in range(_MOST_WINDOWS):
            if self._start + _WINDOW_BYTES > self._end or not self._is_filled():
                return
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
        """Whether most of the next window is in use, by whichever process.

        mincore calls every page resident where the process may not ask. So as much as was mapped
        must be in use in the store's file system, too.
        """
        found = os.statvfs(_FOLDER)
        num_used = (found.f_blocks - found.f_bfree) * found.f_frsize
        if num_used < self.num_bytes + _WINDOW_BYTES * _LEAST_FILLED:
            return False
        pages = np.zeros(_WINDOW_BYTES // mmap.PAGESIZE, np.uint8)
        window = ctypes.c_void_p(self._start), ctypes.c_size_t(_WINDOW_BYTES)
        failed = self._libc.mincore(*window, pages.ctypes.data_as(ctypes.c_void_p))
        return not failed and float((pages & 1).mean()) >= _LEAST_FILLED
