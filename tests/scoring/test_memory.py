"""Freed memory is kept for what is allocated next."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np, pyarrow as pa
from steel_batch.scoring.memory import keep_freed_memory
{keep}
def work():
    for _ in range(16):
        masks = [np.ones(400 << 10, np.uint8) for _ in range(32)]
        del masks
        pa.allocate_buffer(8 << 20)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> int:
    code = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_kept_memory_is_not_fetched_again() -> None:
    assert faults("keep_freed_memory()") < faults("") // 10
