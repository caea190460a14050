"""Reads the headers of one archive of a tar.

Python's tarfile parses each header; this module adds what it lacks. GNU tar's incremental backups
store times in the field where POSIX stores the beginning of a long name, and a sparse file is
stored without its holes.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, cast

from steel_batch.errors import ChangedObjectError, MissingObjectError
from steel_batch.lake import Lake
from steel_batch.sources.image_ref import SPARSE, TOO_LARGE, sparse_offset
from steel_batch.sources.tar_stream import BLOCK_BYTES, HeaderStream

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


class Headers:
    """The headers of one archive, read one member after the other by Python's tarfile.

    Args:
        stream: The file.
        start: Where the archive begins, or any later member's headers.
        size_bytes: The file's size.
        pax_headers: The global headers that hold there.

    Raises:
        tarfile.TarError: There is no header.
    """

    def __init__(
        self, stream: HeaderStream, start: int, size_bytes: int, pax_headers: dict[str, str]
    ) -> None:
        self._stream, self._size_bytes = stream, size_bytes
        self.position = start
        """Where the next member's headers begin."""
        self.pax_headers = pax_headers
        """The global headers before the next member; replaced where they change."""
        stream.begin_member(start)
        stream.seek(start)
        self._tar = _open(stream, dict(pax_headers))  # has read the first header now

    def next_info(self) -> tarfile.TarInfo | None:
        """What tarfile finds out about the next member; None at the end."""
        if self._tar.firstmember is None:  # type: ignore[attr-defined]
            self._stream.begin_member(self.position)
        info = self._tar.next()
        self._tar.members.clear()  # type: ignore[attr-defined]  # or all would be held
        return info

    def member(self, info: tarfile.TarInfo) -> Member:
        """Check the member that `next_info` found, and move on.

        Raises:
            tarfile.TarError: It is damaged.
        """
        before, self.position = self.position, self._tar.offset
        if self._tar.pax_headers != self.pax_headers:
            self.pax_headers = dict(self._tar.pax_headers)
        if self.position <= before:  # tarfile would go round for ever
            raise tarfile.ReadError(f"the member at byte {before:,} has no end")
        return _member(self._stream, info, self._size_bytes)


def _open(stream: HeaderStream, pax_headers: dict[str, str] | None = None) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=cast(BinaryIO, stream), mode="r:", encoding="utf-8", pax_headers=pax_headers
    )


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


def read_member(lake: Lake, key: str, etag: str, offset: int, size: int) -> bytes:
    """Read one member that `tar_members` yielded; holes of a sparse member become zeros.

    Raises:
        LakeError: The tar cannot be read, or was replaced.
        tarfile.TarError: Its header is damaged.
    """
    if offset > SPARSE:
        return lake.read(key, offset=offset, length=size, etag=etag)
    found = lake.stat(key)
    if found is None:
        raise MissingObjectError(f"{lake.uri(key)} does not exist. Upload it again.")
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
