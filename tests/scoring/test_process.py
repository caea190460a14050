"""Freed memory is kept for what is allocated next, and actors on GPUs go first."""

from __future__ import annotations

import subprocess
import sys

import pytest

from steel_batch.scoring.process import BACKGROUND

FAULTS = """
import resource
import numpy as np, pyarrow as pa
from steel_batch.scoring.process import keep_freed_memory
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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_kept_memory_is_not_fetched_again() -> None:
    assert faults("keep_freed_memory()") < faults("") // 10


@pytest.mark.parametrize("before", [0, BACKGROUND - 1, BACKGROUND + 2])
def test_what_gives_way_is_as_nice_as_it_may_be_and_no_nicer(before: int) -> None:
    code = f"""
import os
from steel_batch.scoring.process import give_way
os.nice({before} - os.nice(0))
give_way(); give_way()
print(os.nice(0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == max(before, BACKGROUND)
