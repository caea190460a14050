"""When this process began: its time counts before the first line of the program runs."""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_started() -> float | None:
    """When this process began, in seconds of the monotonic clock; None if that is not known."""
    try:
        text = Path("/proc/self/stat").read_text()
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks = int(text.rpartition(")")[2].split()[19])  # field 22, counted from the process's id
    except (OSError, AttributeError, IndexError, ValueError):  # no Linux
        return None
    age = since_boot - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age)
