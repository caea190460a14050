"""Temporary files for what does not fit in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from steel_batch.errors import LakeError

_FULL: Final = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


class ScratchFile:
    """A file that is written at its end and read anywhere.

    Args:
        descriptor: Of the file, which is empty.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.end = 0
        """Its size in bytes."""

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            LakeError: The disk of temporary files is full.
        """
        left = memoryview(data)
        with naming_a_full_disk(OSError):
            while left:
                written = os.pwrite(self._descriptor, left, self.end)
                self.end += written
                left = left[written:]

    def read(self, start: int, length: int) -> bytes:
        """Read some of what was written."""
        return os.pread(self._descriptor, length, start)


@contextlib.contextmanager
def scratch_file() -> Iterator[ScratchFile]:
    """Open a file, deleted at the end of the block.

    Raises:
        LakeError: The disk of temporary files is full.
    """
    with contextlib.ExitStack() as held:
        with naming_a_full_disk(OSError):
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="steel-batch-"))
            file = held.enter_context(Path(folder, "rows").open("x+b", buffering=0))
        yield ScratchFile(file.fileno())


@contextlib.contextmanager
def naming_a_full_disk(*kinds: type[Exception]) -> Iterator[None]:
    """State which folder is full, if an error of these kinds says so.

    Raises:
        LakeError: The disk of temporary files is full.
    """
    try:
        yield
    except kinds as error:
        # DuckDB has several error types for a full disk; all contain the system's words.
        full = [reason for reason in _FULL if reason in str(error)]
        if not full:
            raise
        raise LakeError(
            f"the folder of temporary files, {tempfile.gettempdir()}: {full[0]}. Free space "
            "there, or set TMPDIR to a larger folder."
        ) from error
