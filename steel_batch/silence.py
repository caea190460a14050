"""Keeps what libraries print out of where only our answers belong."""

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
_replaced: list[TextIO] = []


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


@contextlib.contextmanager
def stdout_replaced(stand_in: io.TextIOBase) -> Iterator[None]:
    """Give what libraries print to `stand_in`; `answers` is what stdout was before."""
    _replaced.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(stand_in):
            yield
    finally:
        _replaced.pop()


def answers() -> TextIO:
    """Where a command's own answer is written, also while stdout is replaced."""
    return _replaced[0] if _replaced else sys.stdout
