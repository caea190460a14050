"""The stdout of a command: one that cannot be written ends the command without a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from steel_batch.errors import MachineError

DESCRIPTOR: Final = 1


class _Descriptor(io.FileIO):
    """Writes to stdout's descriptor, until that fails; drops what is written later."""

    def __init__(self) -> None:
        super().__init__(DESCRIPTOR, "w", closefd=False)
        self._has_failed = False

    def write(self, data: Any) -> int:
        """See `io.FileIO`.

        Raises:
            MachineError: The device is full, or stdout is closed.
            click.exceptions.Exit: The reader of a pipe ended, as `head` does: not worth a message.
        """
        if self._has_failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._has_failed = True
            if isinstance(error, BrokenPipeError):
                raise click.exceptions.Exit(1) from error
            raise MachineError(f"stdout cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def checked_stdout() -> Iterator[None]:
    """Check everything that is written to stdout within the block, and flush it at the end.

    Characters that the encoding of stdout lacks are printed as escapes, as on stderr. Does nothing
    if a caller has put another stream in the place of stdout.

    Raises:
        MachineError: Stdout cannot be written.
        click.exceptions.Exit: The reader of a pipe ended.
    """
    before = sys.stdout
    if before is not sys.__stdout__:
        yield
        return
    if before is None:
        _occupy()
    else:
        before.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Descriptor()),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=before is not None and before.line_buffering,
        write_through=before is not None and before.write_through,
    )
    stream = sys.stdout
    try:
        yield
        stream.flush()
    except BaseException:
        with contextlib.suppress(MachineError, click.exceptions.Exit):
            stream.flush()
        raise
    finally:
        sys.stdout = before


def _occupy() -> None:
    """Give a closed stdout a descriptor that cannot be written, or a file would get its number."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing != DESCRIPTOR:
        os.dup2(nothing, DESCRIPTOR)
        os.close(nothing)
