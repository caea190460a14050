"""What a lake in a folder needs from the file system: durable writes, and the meaning of errors."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any, Final

from steel_batch.errors import LakeError, NotAFileError, TransientLakeError
from steel_batch.lake.files import SpecialFileError

_PASSING: Final = {errno.EINTR, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of file systems without hard links, or of a file that has too many."""
_NO_SYNC: Final = {errno.EINVAL, errno.ENOTSUP}
"""Errors of network drives that cannot sync folders."""
ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class InputFile(io.FileIO):
    """A file to read that raises the lake's errors, whichever library reads it.

    Args:
        path: Its path, for messages.
        handle: Its descriptor, which is closed with it.

    Raises:
        LakeError: From each read, in place of the operating system's error.
    """

    def __init__(self, path: Path, handle: int) -> None:
        super().__init__(handle)
        self._path = path

    def readinto(self, buffer: Any, /) -> int | None:
        """See `io.RawIOBase`."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise error_of(error, self._path) from error

    def readall(self) -> bytes:
        """See `io.RawIOBase`."""
        try:
            return super().readall()
        except OSError as error:
            raise error_of(error, self._path) from error


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create a file if there is none, on a file system without links.

    Readers may see it while it is being written. Returns False if there is one.
    """
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def make_durable(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def error_of(error: OSError, path: Path) -> LakeError:
    """Convert an error of the operating system about a path."""
    reason = error.strerror or str(error)
    if isinstance(error, SpecialFileError):
        return NotAFileError(f"{path}: {reason}.")
    if error.errno in _PASSING:
        return TransientLakeError(f"{path}: {reason}.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "give this user the permission, or choose another folder"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free space on that disk"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        advice = "a part of that path is a file; choose a folder"
    else:
        return LakeError(f"{path}: {reason}.")
    return LakeError(f"{path}: {reason}; {advice}.")
