"""Keeps memory that a process has freed, for what it allocates next.

By default, glibc returns what is freed at the end of the heap to the system, and so does Arrow's
own allocator. The system clears it and hands it out again page by page: for images, that takes as
much CPU as reading them.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import pyarrow as pa

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_KEPT_BYTES: Final = 256 << 20
"""Free memory at the end of the main heap above this is returned."""
_LARGE_BYTES: Final = (128 << 20, 32 << 20)
"""Larger blocks do not come from the heap: the first size that the version of glibc takes."""


def keep_freed_memory() -> None:
    """Keep freed memory in this process, within limits; idempotent.

    These are 256 MiB at the end of the main heap, and 64 MiB for each of the heaps that threads
    have. Arrow allocates from the same heaps afterwards. With another C library than glibc, only
    that changes.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
        any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGE_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())
