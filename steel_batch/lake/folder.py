"""A lake in a local folder."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from steel_batch.errors import (
    ChangedObjectError,
    LakeError,
    LargeObjectError,
    MissingObjectError,
    OutsideLakeError,
    TransientLakeError,
)
from steel_batch.lake.contract import LakeObject, ListedPage, ReadObject, ReadRequest, too_large
from steel_batch.lake.disk import (
    ABSENT,
    NO_LINKS,
    InputFile,
    create_exclusively,
    error_of,
    make_durable,
)
from steel_batch.lake.links import Boundary, broken_link, refuse_link
from steel_batch.lake.retry import Stats

T = TypeVar("T")

SCRATCH: Final = ".tmp"
"""Folder under the root for files that are not complete yet; never listed."""
READ_THREADS: Final = 8
READ_CHUNK: Final = 16
PAGE_OBJECTS: Final = 1000


def etag_of(status: os.stat_result) -> str:
    """A file's etag: its time of change and its size."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


class Folder:
    """A lake in a local folder; see `steel_batch.lake.Lake`.

    Reads follow symbolic links within the root, and out of it only with `follow_links`; nothing is
    written through a link that leads out of the root.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self._root = root
        self._boundary = Boundary(root, follow_links=follow_links)
        self._stats = Stats()

    def list_objects(self, prefix: str) -> Iterator[LakeObject]:
        return self.list_after(prefix, "")

    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]:
        folder, _, head = prefix.rpartition("/")
        base = f"{folder}/" if folder else ""
        self._boundary.check(self._root / folder)
        for item in self._walk(self._root / folder, base, head, frozenset(), after):
            if item.key > after:
                yield item

    def list_pages(self, prefix: str) -> Iterator[ListedPage]:
        objects = self.list_objects(prefix)
        while found := list(itertools.islice(objects, PAGE_OBJECTS)):
            yield ListedPage(
                keys=[item.key for item in found],
                sizes_bytes=[item.size_bytes for item in found],
                etags=[item.etag for item in found],
            )

    def _walk(
        self, folder: Path, base: str, head: str, above: frozenset[str], after: str
    ) -> Iterator[LakeObject]:
        """Yield the files under a folder; their keys begin with `base`, then with `head`.

        `above` holds the real paths of the parent folders, to detect links that lead back to them.
        Not all keys up to `after` are left out, but most are before anything is asked about them.
        """
        entries = self._entries(folder, head)[::-1]
        while entries:
            entry = entries.pop()  # caches its path and status
            try:
                key = base + _key_of(entry.name)
                if f"{key}0" <= after:  # and so is what a folder of that name has: "/" < "0"
                    continue
                is_folder = entry.is_dir()
                place = os.path.realpath(entry.path) if is_folder or entry.is_symlink() else None
                if place is not None and not self._boundary.holds(place):
                    yield _unreadable(key, entry.stat(follow_symlinks=False))
                elif is_folder and place is not None:
                    if place not in above:
                        yield from self._walk(
                            Path(entry.path), f"{key}/", "", above | {place}, after
                        )
                else:
                    status = entry.stat()
                    if not entry.is_file():
                        yield _unreadable(key, status)
                        continue
                    yield LakeObject(key=key, size_bytes=status.st_size, etag=etag_of(status))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise error_of(error, Path(entry.path)) from error
                broken = broken_link(Path(entry.path))
                if broken is not None:  # otherwise it was deleted after it was listed
                    yield _unreadable(key, broken)

    def list_dirs(self, prefix: str, skips: Callable[[str], bool]) -> Iterator[str]:
        folder, _, head = prefix.rpartition("/")
        base = f"{folder}/" if folder else ""
        self._boundary.check(self._root / folder)
        for entry in self._entries(self._root / folder, head):
            key = f"{base}{_key_of(entry.name)}/"
            if skips(key):
                continue
            try:
                holds_files = _holds_files(entry)
            except OSError as error:
                raise error_of(error, Path(entry.path)) from error
            if holds_files:
                yield key

    def leads_out(self, key: str) -> bool:
        return not self._boundary.holds(os.path.realpath(self._root / key))

    def _entries(self, folder: Path, head: str) -> list[os.DirEntry[str]]:
        """The entries of a folder that begin with `head`, sorted by name."""
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if entry.name.startswith(head)]
        except ABSENT:
            return []
        except OSError as error:
            raise error_of(error, folder) from error
        if folder == self._root:
            entries = [entry for entry in entries if entry.name != SCRATCH]
        return sorted(entries, key=lambda e: e.name)

    def stat(self, key: str) -> LakeObject | None:
        try:
            status = self._boundary.look(self._root / key)
        except ABSENT:
            return None
        except OSError as error:
            raise error_of(error, self._root / key) from error
        return LakeObject(key=key, size_bytes=status.st_size, etag=etag_of(status))

    def age_seconds(self, key: str) -> float | None:
        try:
            written = self._boundary.look(self._root / key).st_mtime
        except ABSENT:
            return None
        except OSError as error:
            raise error_of(error, self._root / key) from error
        return max(0.0, self._now() - written)

    def _now(self) -> float:
        """The time by the file system's clock: on a network drive, the server's."""
        scratch = self._scratch()
        try:
            scratch.touch()
            try:
                return scratch.stat().st_mtime
            finally:
                scratch.unlink(missing_ok=True)
        except OSError:  # it cannot be written, or holds nothing from earlier
            return time.time()

    def read_objects(self, requests: Sequence[ReadRequest]) -> list[ReadObject | LakeError]:
        if len(requests) < READ_THREADS:
            return [self._read(request) for request in requests]
        # Several for each thread at a time: passing them on one by one costs more than most reads.
        size = max(1, min(READ_CHUNK, len(requests) // (4 * READ_THREADS)))
        chunks = [requests[start : start + size] for start in range(0, len(requests), size)]
        with ThreadPoolExecutor(READ_THREADS, "read") as pool:
            found = pool.map(lambda chunk: [self._read(request) for request in chunk], chunks)
            return [result for results in found for result in results]

    def _read(self, request: ReadRequest) -> ReadObject | LakeError:
        path = self._root / request.key
        self._stats.add("requests")
        try:
            with os.fdopen(self._boundary.open(path), "rb") as file:
                status = os.fstat(file.fileno())
                if request.etag is not None and etag_of(status) != request.etag:
                    return ChangedObjectError(f"{path} was replaced: its etag has changed.")
                wanted = request.length
                if wanted is None:
                    wanted = status.st_size - request.offset
                # As in a bucket: a range that begins at the end is an error, not an empty answer.
                is_past_end = request.length is None and request.offset > 0 and wanted <= 0
                if is_past_end or request.offset + wanted > status.st_size:
                    return ChangedObjectError(f"{path} is shorter than the requested range.")
                if request.max_bytes is not None and wanted > request.max_bytes:
                    return too_large(str(path), wanted, request.max_bytes)
                file.seek(request.offset)
                data = file.read(wanted)
        except ABSENT:
            return MissingObjectError(f"{path} is not there.")
        except OutsideLakeError as error:
            return error
        except OSError as error:
            return error_of(error, path)
        except MemoryError:
            return LargeObjectError(f"{path}: there is no memory for {wanted:,} bytes of it.")
        if len(data) != wanted:
            return TransientLakeError(f"{path}: read {len(data)} bytes, expected {wanted}.")
        self._stats.add("bytes_read", len(data))
        return ReadObject(data=data, etag=etag_of(status))

    def write(self, key: str, data: bytes) -> None:
        with self.open_output(key) as stream:
            stream.write(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._staged(key) as (scratch, path):
            scratch.write_bytes(data)
            make_durable(scratch)
            try:
                # A link appears with its whole content, and only if there is nothing yet.
                path.hardlink_to(scratch)
            except FileExistsError:
                # A network drive may create it, lose the answer, retry, and then find it existing.
                return path.samefile(scratch)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return create_exclusively(path, data)
            make_durable(path.parent)
        return True

    def race(self, key: str, data: bytes) -> bool:
        return self.put_if_absent(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._target(key)
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:  # a part of the path is a file, so this one is missing
                continue
            except OSError as error:
                raise error_of(error, path) from error

    def copy(self, source: str, target: str) -> None:
        if self.stat(source) is None:
            raise MissingObjectError(f"{self._root / source} is not there.")
        with self._staged(target) as (scratch, path):
            try:
                scratch.hardlink_to((self._root / source).resolve())
            except OSError as error:
                if error.errno not in (*NO_LINKS, errno.EXDEV):
                    raise
                shutil.copyfile(self._root / source, scratch)
                make_durable(scratch)
            scratch.replace(path)
            make_durable(path.parent)

    def open_input(self, key: str) -> BinaryIO:
        path = self._root / key
        try:
            return io.BufferedReader(InputFile(path, self._boundary.open(path)))
        except ABSENT as error:
            raise MissingObjectError(f"{path} is not there.") from error
        except OSError as error:
            raise error_of(error, path) from error

    @contextlib.contextmanager
    def open_output(self, key: str) -> Iterator[BinaryIO]:
        with self._staged(key) as (scratch, path):
            with scratch.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
            make_durable(path.parent)

    def sweep(self, older_seconds: float, dry_run: bool) -> list[LakeObject]:
        swept = []
        try:
            for path in self._scratch().parent.iterdir():
                with contextlib.suppress(FileNotFoundError):  # its writer was still alive
                    status = path.lstat()
                    if time.time() - status.st_mtime < older_seconds:
                        continue
                    if not dry_run:
                        path.unlink()
                    key = f"{SCRATCH}/{path.name}"
                    swept.append(
                        LakeObject(key=key, size_bytes=status.st_size, etag=etag_of(status))
                    )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise error_of(error, self._root / SCRATCH) from error
        return swept

    def storage_options(self) -> dict[str, str]:
        return {}

    def call_with_retry(self, _what: str, request: Callable[[], T]) -> T:
        return request()

    def counts(self) -> dict[str, int]:
        return self._stats.snapshot()

    def _scratch(self) -> Path:
        """A new path to write at until a file is whole.

        Raises:
            LakeError: The folder of those is a link: what is swept there would be another's.
        """
        refuse_link(self._root / SCRATCH)
        return self._root / SCRATCH / uuid.uuid4().hex

    def _target(self, key: str) -> Path:
        """The path that a key is written to.

        Raises:
            LakeError: A link in the path leads out of the root.
        """
        path = self._root / key
        try:
            root, folder = self._root.resolve(), path.parent.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise LakeError(f"{path}: {error}; use real folders in place of links.") from error
        if not folder.is_relative_to(root):
            raise LakeError(
                f"{path} is in {folder}, outside of {root}: nothing is written through such a "
                "link. Use the path of the folder that it leads to."
            )
        return path

    @contextlib.contextmanager
    def _staged(self, key: str) -> Iterator[tuple[Path, Path]]:
        """Paths of a scratch file, deleted afterwards, and of the target; creates its folder."""
        path = self._target(key)
        scratch = self._scratch()
        try:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield scratch, path
            finally:
                scratch.unlink(missing_ok=True)
        except OSError as error:
            raise error_of(error, path) from error


def _unreadable(key: str, status: os.stat_result) -> LakeObject:
    """What stands where a file is expected: planned, so that it is seen, and refused when read."""
    return LakeObject(key=key, size_bytes=0, etag=etag_of(status))


def _key_of(name: str) -> str:
    """A file name as part of a key; a name that is not UTF-8 becomes one that is refused."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def _holds_files(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder with a file in or under it: buckets have no other folders.

    A folder that may not be read counts as if it had, so that the reader gets the error.
    """
    if entry.is_symlink():
        return entry.is_dir()
    if not entry.is_dir():
        return False
    try:
        with os.scandir(entry.path) as found:
            return any(e.is_file() or _holds_files(e) for e in found)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
