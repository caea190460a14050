"""Keeps what libraries print where only ours belongs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Drop what this process writes there meanwhile, C++ as well.

    Args:
        descriptor: `STDOUT` or `STDERR`.
    """
    stream = sys.stdout if descriptor == STDOUT else sys.stderr
    stream.flush()
    kept = os.dup(descriptor)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), descriptor)
        yield
    finally:
        stream.flush()
        os.dup2(kept, descriptor)
        os.close(kept)
