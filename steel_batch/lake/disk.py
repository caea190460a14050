"""What a lake in a folder needs of the file system: bytes that stay, and what its errors mean."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any, Final

from steel_batch.errors import LakeError, TransientLakeError

_PASSING: Final = {errno.EINTR, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What file systems without hard links answer; also one whose file has too many."""
_NO_SYNC: Final = {errno.EINVAL, errno.ENOTSUP}
"""What network drives answer that cannot do it for folders."""
ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class InputFile(io.FileIO):
    """A file to read, whose errors are those of the lake, whoever reads it.

    Raises:
        LakeError: In place of the operating system's error, from each read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
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
    """Create a file where there is none, on a file system without links.

    Readers may see it while it is written. False where there is one.
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
    """Bring a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def error_of(error: OSError, path: Path) -> LakeError:
    """The error to raise for what the operating system answered about a path."""
    reason = error.strerror or str(error)
    if error.errno in _PASSING:
        return TransientLakeError(f"{path}: {reason}.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "give this user the right to, or name another folder"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "make room on that disk"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        advice = "a part of that path is a file; name a folder"
    else:
        return LakeError(f"{path}: {reason}.")
    return LakeError(f"{path}: {reason}; {advice}.")
