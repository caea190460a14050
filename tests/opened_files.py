"""Which files of some folders are opened, by whatever code: told by the kernel (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN = 0x20
IN_NONBLOCK = 0x800
IN_ISDIR = 0x40000000
HEADER = struct.Struct("iIII")


@contextmanager
def opened_files(root: Path) -> Iterator[set[str]]:
    """The files below a folder that are opened in the block, in the set when the block is over."""
    libc = ctypes.CDLL(None, use_errno=True)
    events = libc.inotify_init1(IN_NONBLOCK)
    folders = {}
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        watch = libc.inotify_add_watch(events, os.fsencode(folder), IN_OPEN)
        assert watch >= 0, os.strerror(ctypes.get_errno())
        folders[watch] = folder
    found: set[str] = set()
    try:
        yield found
        data = b""
        while True:
            try:
                data += os.read(events, 1 << 16)
            except BlockingIOError:
                break
        while data:
            watch, mask, _, length = HEADER.unpack_from(data)
            name = data[HEADER.size : HEADER.size + length].rstrip(b"\0").decode()
            data = data[HEADER.size + length :]
            if name and not mask & IN_ISDIR:
                found.add(str((folders[watch] / name).relative_to(root)))
    finally:
        os.close(events)
