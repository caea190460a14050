"""Protection from other users of this machine: which files are opened, where processes start.

Opening a FIFO waits for a writer, possibly forever and without reacting to signals; opening a
device can trigger actions of that device. So anything but a regular file is refused before it is
opened, and checked again afterwards. Python and Ray import from their working folder, so processes
are started in a folder of our own.
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
    """The path is neither a regular file nor a folder; `strerror` states what it is."""


def open_regular(path: Path) -> int:
    """Open a regular file to read it, without waiting; returns its descriptor.

    Raises:
        SpecialFileError: It is a FIFO, a socket or a device.
        OSError: It is a folder, does not exist, or may not be read.
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
    """Read a regular file; see `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def check_regular(status: os.stat_result, path: Path) -> None:
    """Refuse anything but a regular file.

    Args:
        status: The file's status.
        path: The file's path, for the error.

    Raises:
        SpecialFileError: It is a FIFO, a socket or a device.
        IsADirectoryError: It is a folder.
    """
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file")
    raise SpecialFileError(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the working folder within the block; only for starting processes.

    All threads of a process, and its children, share the working folder.

    Args:
        folder: A folder that no other user can write to.
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
