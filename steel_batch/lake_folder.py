"""A lake in a local folder."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

from steel_batch.errors import (
    ChangedObjectError,
    LakeError,
    MissingObjectError,
    TransientLakeError,
)
from steel_batch.lake import LakeObject, ReadRequest

SCRATCH: Final = ".tmp"
"""Folder below the root where files lie until they are whole; never listed."""
READ_THREADS: Final = 8
_PASSING: Final = {errno.EINTR, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


def etag_of(status: os.stat_result) -> str:
    """A file's etag: its time of change and its size."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


class Folder:
    """See `steel_batch.lake.Lake`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list_objects(self, prefix: str) -> Iterator[LakeObject]:
        folder, _, head = prefix.rpartition("/")
        yield from self._walk(folder, head)

    def _walk(self, folder: str, head: str) -> Iterator[LakeObject]:
        try:
            with os.scandir(self._root / folder) as found:
                entries = sorted(found, key=lambda e: e.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _error_of(error, self._root / folder) from error
        base = f"{folder}/" if folder else ""
        for entry in entries:
            if not entry.name.startswith(head) or (not folder and entry.name == SCRATCH):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(base + entry.name, "")
            elif entry.is_file():
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    status = entry.stat()
                    yield LakeObject(
                        key=base + entry.name, size_bytes=status.st_size, etag=etag_of(status)
                    )

    def list_dirs(self, prefix: str) -> Iterator[str]:
        folder, _, head = prefix.rpartition("/")
        try:
            with os.scandir(self._root / folder) as found:
                names = sorted(e.name for e in found if e.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return
        base = f"{folder}/" if folder else ""
        for name in names:
            if name.startswith(head) and (folder or name != SCRATCH):
                yield f"{base}{name}/"

    def stat(self, key: str) -> LakeObject | None:
        try:
            status = (self._root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _error_of(error, self._root / key) from error
        return LakeObject(key=key, size_bytes=status.st_size, etag=etag_of(status))

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        if len(requests) < READ_THREADS:
            return [self._read(request) for request in requests]
        with ThreadPoolExecutor(READ_THREADS, "read") as pool:
            return list(pool.map(self._read, requests))

    def _read(self, request: ReadRequest) -> bytes | LakeError:
        path = self._root / request.key
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if request.etag is not None and etag_of(status) != request.etag:
                    return ChangedObjectError(f"{path} was changed.")
                file.seek(request.offset)
                data = file.read(-1 if request.length is None else request.length)
        except FileNotFoundError:
            return MissingObjectError(f"{path} is not there.")
        except OSError as error:
            return _error_of(error, path)
        wanted = request.length
        if wanted is None:
            wanted = max(0, status.st_size - request.offset)
        if len(data) != wanted:
            return TransientLakeError(f"{path}: read {len(data)} bytes, expected {wanted}.")
        return data

    def write(self, key: str, data: bytes) -> None:
        with self.open_output(key) as stream:
            stream.write(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._root / key
        try:
            scratch = self._scratch()
            try:
                scratch.write_bytes(data)
                _make_durable(scratch)
                path.parent.mkdir(parents=True, exist_ok=True)
                # A link appears with its whole content, and only where there is nothing.
                path.hardlink_to(scratch)
            finally:
                scratch.unlink(missing_ok=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise _error_of(error, path) from error
        return True

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._root / key
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _error_of(error, path) from error

    def copy(self, source: str, target: str) -> None:
        path = self._root / target
        try:
            scratch = self._scratch()
            try:
                try:
                    scratch.hardlink_to(self._root / source)
                except FileNotFoundError:
                    raise
                except OSError:  # a file system without links
                    shutil.copyfile(self._root / source, scratch)
                    _make_durable(scratch)
                path.parent.mkdir(parents=True, exist_ok=True)
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self._root / source} is not there.") from error
        except OSError as error:
            raise _error_of(error, path) from error

    def open_input(self, key: str) -> BinaryIO:
        path = self._root / key
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise MissingObjectError(f"{path} is not there.") from error
        except OSError as error:
            raise _error_of(error, path) from error

    @contextlib.contextmanager
    def open_output(self, key: str) -> Iterator[BinaryIO]:
        path = self._root / key
        try:
            scratch = self._scratch()
            try:
                with scratch.open("wb") as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
        except OSError as error:
            raise _error_of(error, path) from error

    def storage_options(self) -> dict[str, str]:
        return {}

    def counts(self) -> dict[str, int]:
        return {}

    def _scratch(self) -> Path:
        folder = self._root / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex


def _make_durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _error_of(error: OSError, path: Path) -> LakeError:
    reason = error.strerror or str(error)
    if error.errno in _PASSING:
        return TransientLakeError(f"{path}: {reason}.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "give this user the right to, or name another folder"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "make room on that disk"
    elif error.errno == errno.ENOTDIR:
        advice = "a part of that path is a file; name a folder"
    else:
        advice = "check the folder"
    return LakeError(f"{path}: {reason}; {advice}.")
