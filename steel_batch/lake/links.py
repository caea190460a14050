"""Where links in a folder lead: within its root they are followed, out of it they are not."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from steel_batch.errors import LakeError, OutsideLakeError
from steel_batch.lake.files import SpecialFileError, check_regular, open_regular

_DESCRIPTORS: Final = "/proc/self/fd"


class Boundary:
    """What lies within a folder's root, wherever the links on the way lead.

    Args:
        root: The folder; may be a link itself, and need not be there yet.
        follow_links: Whether links out of it are followed all the same.
    """

    def __init__(self, root: Path, *, follow_links: bool) -> None:
        self._root = root
        self._real_root = ""
        self.is_open = follow_links

    def holds(self, real_path: str) -> bool:
        """Whether a path without links is the root or lies below it."""
        if self.is_open or self._is_below(real_path):
            return True
        self._real_root = os.path.realpath(self._root)  # it may lead elsewhere than before
        return self._is_below(real_path)

    def _is_below(self, real_path: str) -> bool:
        root = self._real_root.rstrip("/")
        return bool(self._real_root) and (real_path == root or real_path.startswith(f"{root}/"))

    def check(self, path: Path) -> None:
        """Refuse a file or folder that is reached by a link out of the root.

        Raises:
            OutsideLakeError: It says where the link leads.
        """
        if not self.is_open:
            self._refuse(path, os.path.realpath(path))

    def open(self, path: Path) -> int:
        """Open a regular file to read it, without waiting; returns its descriptor.

        Raises:
            OutsideLakeError: A link leads out of the root.
            SpecialFileError: It is a FIFO, a socket, a device, or a link to nothing.
            OSError: It is a folder, does not exist, or may not be read.
        """
        try:
            handle = open_regular(path)
        except OSError as error:
            self.check(path)
            if error.errno in (errno.ENOENT, errno.ELOOP) and broken_link(path) is not None:
                raise SpecialFileError(
                    errno.EINVAL,
                    f"it is a broken link, to {os.readlink(path)}, expected a regular file",  # noqa: PTH115 - as it is written
                    str(path),
                ) from error
            raise
        try:
            if not self.is_open:
                # Of what is open, so that no link that is changed meanwhile leads elsewhere.
                try:
                    real_path = os.readlink(f"{_DESCRIPTORS}/{handle}")  # noqa: PTH115 - in half the time
                except OSError:  # not on Linux
                    real_path = os.path.realpath(path)
                self._refuse(path, real_path)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def look(self, path: Path) -> os.stat_result:
        """What the file system says of a regular file.

        Raises:
            OutsideLakeError: A link leads out of the root.
            OSError: It is not a regular file, or does not exist.
        """
        self.check(path)
        status = path.stat()
        check_regular(status, path)
        return status

    def _refuse(self, path: Path, real_path: str) -> None:
        if not self.holds(real_path):
            raise OutsideLakeError(
                f"{path} leads out of {self._root}, to {real_path}: links are followed within a "
                "lake only. Put the file itself there, or give --follow-links."
            )


def broken_link(path: Path) -> os.stat_result | None:
    """The status of a link itself that leads to nothing, or to itself.

    Returns:
        None if it is no link, or not there any more.
    """
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISLNK(status.st_mode) else None


def refuse_link(folder: Path) -> None:
    """Refuse to work in a folder of ours that is a link, wherever it leads.

    Raises:
        LakeError: It is one, or no folder at all.
    """
    try:
        mode = folder.lstat().st_mode
    except OSError:  # it is not there, and who works in it is told why it cannot be
        return
    if stat.S_ISLNK(mode):
        raise LakeError(
            f"{folder} is a link to {os.path.realpath(folder)}; expected a folder of the store's "
            "own, in which files are written and deleted. Remove the link."
        )
    if not stat.S_ISDIR(mode):
        raise LakeError(f"{folder} is a file; expected a folder of the store's own. Remove it.")
