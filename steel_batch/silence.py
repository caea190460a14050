"""Keeps the output of libraries out of a command's own output."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

STDOUT: Final = 1
STDERR: Final = 2
_behind: list[tuple[object, TextIO]] = []
"""Each replacement of stdout that is in place, and what it replaces."""


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Drop what this process, including C++ code, writes to a descriptor within the block.

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


@contextlib.contextmanager
def stdout_replaced(stand_in: io.TextIOBase) -> Iterator[None]:
    """Send what libraries print to `stand_in`; `answers` returns the original stdout."""
    _behind.append((stand_in, sys.stdout))
    try:
        with contextlib.redirect_stdout(stand_in):
            yield
    finally:
        _behind.pop()


def answers() -> TextIO:
    """Return the stream for a command's own output, even while stdout is replaced."""
    stream: TextIO = sys.stdout
    for stand_in, behind in reversed(_behind):
        if stream is stand_in:
            stream = behind
    return stream
