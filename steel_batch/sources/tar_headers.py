"""Reads the headers of a tar with range requests that skip the contents.

Python's tarfile parses each header; this module adds what it lacks. A file may hold several tars,
one after the other (``cat 1.tar 2.tar``); GNU tar's incremental backups store times in the field
where POSIX stores the beginning of a long name; and a sparse file is stored without its holes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, cast

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ChangedObjectError, InputError, MissingObjectError
from steel_batch.lake import Lake
from steel_batch.sources.image_ref import SPARSE, TOO_LARGE, sparse_offset
from steel_batch.sources.magic import MAGIC_BYTES, kind_of

BLOCK_BYTES: Final = tarfile.BLOCKSIZE
RECORD_BYTES: Final = tarfile.RECORDSIZE
"""Writers pad the last record to this size; some of them with leftover memory."""
WINDOW_BYTES: Final = 8 << 10
"""Size of one request for a header: for small images it includes the next headers."""
MAX_HEADER_BYTES: Final = LIMITS.tar_header_bytes
"""Upper limit of a name or extended header; no tool writes longer ones."""
MAX_PADDING_BYTES: Final = 64 << 20
"""Zeros behind an end mark: tapes have records of a megabyte, and a sparse file may have any
number."""
MAX_SPARSE_BYTES: Final = 1 << 30
"""Upper limit of a sparse member with its holes, which cost the tar nothing but a reader memory."""

_GNU_MAGIC: Final = b"ustar  \0"
DAMAGE: Final = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)
"""What tarfile raises for damaged headers."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar."""

    name: str
    """The stored name; bytes that are not UTF-8 become surrogates."""
    kind: Literal["file", "hard link", "symbolic link", "other"]
    offset: int
    """For a file: see `ImageRef.offset`."""
    size: int
    target: str
    """For a link: the name of its target."""


def walk_tar(
    lake: Lake, key: str, size_bytes: int, etag: str, limits: Limits = LIMITS
) -> Iterator[Member]:
    """Yield every member of a tar, including those of tars appended to it.

    Args:
        lake: Where it lies.
        key: Its key.
        size_bytes: Its size.
        etag: Its etag.
        limits: How many members and how long headers are read.

    Raises:
        InputError: It is damaged, cut off, or no tar; or has more members than are read.
        ChangedObjectError: Its etag is another one by now.
    """
    stream = HeaderStream(lake, key, size_bytes, etag, limits.tar_header_bytes)
    num_members = 0
    start: int | None = 0
    try:
        while start is not None:
            end = start
            stream.seek(start)
            with _open(stream) as tar:
                while (info := _next(tar, stream)) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # or all would be held
                    num_members += 1
                    if num_members > limits.tar_members:
                        raise InputError(
                            f"{lake.uri(key)} has more than {limits.tar_members:,} members (limit "
                            "tar-members): pack the images into smaller tars."
                        )
                    if tar.offset <= end:  # tarfile would go round for ever
                        raise tarfile.ReadError(f"the member at byte {end:,} has no end")
                    yield _member(stream, info, size_bytes)
                    end = tar.offset
            start = _next_archive(stream, end, size_bytes)
    except DAMAGE as error:
        if isinstance(error, RecursionError):
            error = tarfile.ReadError("headers of headers without a member")
        kind = kind_of(stream.beginning())
        if kind is not None and num_members == 0:
            raise InputError(
                f"{lake.uri(key)} is {kind}, not a plain tar as its name states. Unpack it and "
                "pack the images as .tar (with `steel-batch pack`), or move it out of the prefix."
            ) from error
        raise InputError(
            f"{lake.uri(key)} is damaged after its first {num_members:,} members ({error}): none "
            "of it is scored, as images would be missing. Upload it again, or move it out of the "
            "prefix."
        ) from error


def _next(tar: tarfile.TarFile, stream: HeaderStream) -> tarfile.TarInfo | None:
    stream.begin_member()
    return tar.next()


def _open(stream: HeaderStream) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:", encoding="utf-8")


def _member(stream: HeaderStream, info: tarfile.TarInfo, size_bytes: int) -> Member:
    name = _name(stream, info)
    if info.islnk() or info.issym():
        return Member(name, "hard link" if info.islnk() else "symbolic link", 0, 0, info.linkname)
    if not info.isreg():
        return Member(name, "other", 0, 0, "")
    holes = _sparse_map(info)
    stored = info.size if holes is None else sum(length for _, length in holes)
    if info.size < 0 or info.offset_data + stored > size_bytes:
        raise tarfile.ReadError(f"{info.name!r} extends past the end of the file")
    offset = info.offset_data
    if holes is not None:
        offset = sparse_offset(info.offset) if info.size <= MAX_SPARSE_BYTES else TOO_LARGE
    return Member(name, "file", offset, 0 if offset == TOO_LARGE else info.size, "")


def _name(stream: HeaderStream, info: tarfile.TarInfo) -> str:
    """A member's name. tarfile takes times in a GNU header for the beginning of the name."""
    if "/" not in info.name or info.type in tarfile.GNU_TYPES:
        return info.name
    stream.seek(info.offset_data - BLOCK_BYTES)
    header = stream.read(BLOCK_BYTES)
    if header[257:265] != _GNU_MAGIC:
        return info.name
    own, times = (
        field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        for field in (header[:100], header[345:500])
    )
    own = own.rstrip("/") if info.isdir() else own
    return own if times and info.name == f"{times}/{own}" else info.name


def _sparse_map(info: tarfile.TarInfo) -> list[tuple[int, int]] | None:
    """Begins and lengths of the stored parts of a sparse file; None if it is not sparse."""
    found = cast("list[tuple[int, int]] | None", info.sparse)  # typeshed has it as bytes
    if found is None:
        return None
    parts = [(offset, length) for offset, length in found if length]
    end = 0
    for offset, length in parts:
        if length < 0 or offset < end or offset + length > info.size:
            raise tarfile.ReadError(f"{info.name!r} has parts that do not fit its size")
        end = offset + length
    return parts


def _next_archive(stream: HeaderStream, end: int, size_bytes: int) -> int | None:
    """Where the next tar begins after the end mark of one; None if there is none."""
    position, length = end, 2 * RECORD_BYTES
    found = b""
    while position < size_bytes and not found:
        if position - end > MAX_PADDING_BYTES:
            raise tarfile.ReadError(
                f"more than {MAX_PADDING_BYTES:,} zeros follow its end-of-archive mark"
            )
        stream.begin_member()
        stream.seek(position)
        data = stream.read(min(length, size_bytes - position, stream.header_bytes))
        # A damaged or cut-off header ends tarfile's iteration in the same way as the end mark.
        if position == end and data[:BLOCK_BYTES] != bytes(BLOCK_BYTES):
            break
        found = data.lstrip(b"\0")
        position += len(data) - len(found)
        length = MAX_HEADER_BYTES
    if position == end:
        raise tarfile.ReadError("the end-of-archive mark is missing")
    if not found:
        return None
    start = position - position % BLOCK_BYTES
    stream.begin_member()
    stream.seek(start)
    try:
        tarfile.TarInfo.frombuf(stream.read(BLOCK_BYTES), "utf-8", "surrogateescape")
    except DAMAGE as error:
        stream.seek(start)
        if size_bytes - end <= RECORD_BYTES and b"ustar" not in stream.read(RECORD_BYTES):
            return None  # padding of the last record
        raise tarfile.ReadError(
            f"after its end-of-archive mark, at byte {start:,}, there is data that is not a tar"
        ) from error
    return start


def read_member(lake: Lake, key: str, etag: str, offset: int, size: int) -> bytes:
    """Read one member that `walk_tar` yielded; holes of a sparse member become zeros.

    Raises:
        LakeError: The tar cannot be read, or was replaced.
        tarfile.TarError: Its header is damaged.
    """
    if offset > SPARSE:
        return lake.read(key, offset=offset, length=size, etag=etag)
    found = lake.stat(key)
    if found is None:
        raise MissingObjectError(f"{lake.uri(key)} does not exist.")
    if found.etag != etag:
        raise ChangedObjectError(f"{lake.uri(key)} was replaced: its etag has changed.")
    stream = HeaderStream(lake, key, found.size_bytes, etag)
    stream.seek(sparse_offset(offset))
    with _open(stream) as tar:
        info = tar.next()
    parts = _sparse_map(info) if info is not None else None
    if info is None or parts is None or info.size != size:
        raise tarfile.ReadError("its header has changed")
    stored = lake.read(
        key, offset=info.offset_data, length=sum(length for _, length in parts), etag=etag
    )
    content, start = bytearray(size), 0
    for place, length in parts:
        content[place : place + length] = stored[start : start + length]
        start += length
    return bytes(content)


class HeaderStream(io.RawIOBase):
    """A tar as a stream for tarfile: a window of bytes, moved by range requests."""

    def __init__(
        self,
        lake: Lake,
        key: str,
        size_bytes: int,
        etag: str,
        header_bytes: int = MAX_HEADER_BYTES,
    ) -> None:
        self._lake, self._key, self._size_bytes, self._etag = lake, key, size_bytes, etag
        self.header_bytes, self._read_bytes = header_bytes, 0
        self._position = 0
        self._start, self._window = 0, b""

    def begin_member(self) -> None:
        """What is read from here on is the headers of one member."""
        self._read_bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """The position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position from the beginning; makes no request."""
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"cannot seek to {offset}")
        self._position = offset
        return offset

    def beginning(self) -> bytes:
        """The first bytes of the file."""
        self.begin_member()
        self.seek(0)
        return self.read(MAGIC_BYTES)

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer at the end.

        Raises:
            ValueError: `size` is larger than any header.
        """
        self._read_bytes += max(0, size)
        if size < 0 or self._read_bytes > self.header_bytes:
            raise ValueError(
                f"a header of {self._read_bytes:,} bytes, at most {self.header_bytes:,} are read "
                "(limit tar-header-bytes)"
            )
        first, last = self._position, min(self._position + size, self._size_bytes)
        if last <= first:
            return b""
        if first < self._start or last > self._start + len(self._window):
            length = min(max(WINDOW_BYTES, size), self._size_bytes - first)
            self._window = self._lake.read(self._key, offset=first, length=length, etag=self._etag)
            self._start = first
        self._position = last
        return self._window[first - self._start : last - self._start]
