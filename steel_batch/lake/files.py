"""What others may have put on this machine: which files are opened, and where processes start.

Opening a FIFO waits for a writer, without end and deaf to signals; opening a device can do what
that device does. Whatever is no regular file is refused by name before it is opened, and what is
opened is looked at again. Python and Ray import from the folder that they are started in, so
processes are started in a folder of our own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class SpecialFileError(OSError):
    """What lies there is neither a regular file nor a folder; `strerror` says what it is."""


def open_regular(path: Path) -> int:
    """Open a regular file to read it, without waiting; returns its descriptor.

    Raises:
        SpecialFileError: It is a FIFO, a socket or a device.
        OSError: It is a folder, is not there, or may not be read.
    """
    check_regular(path.stat(), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        check_regular(os.fstat(handle), path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_regular(path: Path) -> bytes:
    """A regular file's bytes; see `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def check_regular(status: os.stat_result, path: Path) -> None:
    """Refuse what is no regular file.

    Args:
        status: What the file system says of it.
        path: For the error.

    Raises:
        SpecialFileError: It is a FIFO, a socket or a device.
        IsADirectoryError: It is a folder.
    """
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
    raise SpecialFileError(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Have another working folder within the block: for starting processes, and for nothing else.

    The folder of a process is that of all its threads, and of what it starts.

    Args:
        folder: One that nobody else can write to.
    """
    # Its path may be gone or hidden, and says nothing where it was renamed.
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        try:
            yield
        finally:
            os.fchdir(here)
    finally:
        os.close(here)
