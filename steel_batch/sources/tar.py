"""The members of a tar, from the index beside it or from its headers; nothing is ever extracted.

Headers are read by ranges that skip the images. Names are only names: they end up in keys of rows,
never in a path.
"""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from steel_batch.errors import ConfigError, MissingObjectError
from steel_batch.lake import Lake, LakeObject
from steel_batch.sources.image_ref import NOT_A_FILE, UNSAFE_NAME, ImageRef, ref_of
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.tar_index import INDEX_SUFFIX, Index, tail_sha256

WINDOW_BYTES: Final = 8 << 10
"""What one request for a header reads: small images come with their neighbours' headers."""
MAX_HEADER_BYTES: Final = 1 << 20
"""A longer name or extended header is none that any tool writes."""

log = logging.getLogger(__name__)


def tar_images(lake: Lake, container: ImageRef, pattern: KeyPattern) -> Iterator[ImageRef | str]:
    """The images of one tar.

    A member that is named like an image but cannot be read as one (a link, a folder, an absolute
    name or one with '..') is yielded with `NOT_A_FILE` or `UNSAFE_NAME`, to be quarantined.

    Args:
        lake: Where the tar lies.
        container: The tar.
        pattern: Of the members' names; a leading ``./`` is no part of them.

    Yields:
        Images in the tar's order; the image key of what does not match.

    Raises:
        ConfigError: The tar or its index is damaged, or two members have one name.
        ChangedObjectError: The tar was replaced since it was listed.
    """
    names: set[str] = set()
    for name, offset, size in _members(lake, container):
        key = f"{container.object_key}#{name}"
        fields = pattern.match(name)
        if fields is None:
            yield key
            continue
        if name in names:
            raise ConfigError(
                f"{lake.uri(container.object_key)} has two members named {name!r}: each image "
                "needs a key of its own. Rename or remove one of them, or pack the images anew."
            )
        names.add(name)
        item = LakeObject(key=key, size_bytes=size, etag=container.etag)
        ref = ref_of(fields, item)
        yield _inside(ref, container, offset)


def _inside(ref: ImageRef, container: ImageRef, offset: int) -> ImageRef:
    return ImageRef(
        image_key=ref.image_key, image_id=ref.image_id, date=ref.date, line=ref.line,
        tags=ref.tags, object_key=container.object_key, offset=offset, bytes=ref.bytes,
        etag=container.etag,
    )  # fmt: skip


def _members(lake: Lake, container: ImageRef) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member, as the index or the headers say."""
    key = container.object_key + INDEX_SUFFIX
    try:
        index = Index(lake.read(key), key)
    except MissingObjectError:
        index = None
    if index is not None:
        head = index.head
        if head.bytes == container.bytes and head.tail_sha256 == tail_sha256(
            lake, container.object_key, container.bytes, container.etag
        ):
            for entry in index.entries():
                yield _placed(entry.name, entry.offset, entry.bytes)
            return
        log.warning("%s is not of the tar beside it; its headers are read instead", key)
    yield from _walk(lake, container)


def _walk(lake: Lake, container: ImageRef) -> Iterator[tuple[str, int, int]]:
    stream = _HeaderStream(lake, container)
    num_members = end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or all of them would be held
                num_members += 1
                size = member.size if member.isreg() else 0
                if size < 0 or member.offset_data + size > container.bytes:
                    raise tarfile.ReadError(f"{member.name!r} ends behind the end of the file")
                end = tar.offset
                if not member.isreg() or member.issparse():
                    yield _placed(member.name, NOT_A_FILE, 0)
                else:
                    yield _placed(member.name, member.offset_data, size)
            stream.seek(end)
            # A header that is damaged or cut off ends tarfile's iteration like the end itself.
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("there is no end-of-archive mark where it should be")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{lake.uri(container.object_key)} is damaged behind its first {num_members:,} members "
            f"({error}): nothing of it is scored, as images would be missing. Upload it again, or "
            "move it out of the prefix."
        ) from error


def _placed(name: str, offset: int, size: int) -> tuple[str, int, int]:
    """A member as it goes into keys: without a leading './', and valid as UTF-8."""
    while name.startswith("./"):
        name = name[2:]
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        return name, UNSAFE_NAME, 0
    return name, offset, size


class _HeaderStream(io.RawIOBase):
    """A tar as tarfile reads it: a window of bytes, moved by requests for ranges."""

    def __init__(self, lake: Lake, container: ImageRef) -> None:
        self._lake, self._container = lake, container
        self._position = 0
        self._start, self._window = 0, b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move from the beginning; costs no request."""
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"cannot seek to {offset}")
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, fewer at the end.

        Raises:
            ValueError: More were asked for than a header has.
        """
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        first, last = self._position, min(self._position + size, self._container.bytes)
        if last <= first:
            return b""
        if first < self._start or last > self._start + len(self._window):
            length = min(max(WINDOW_BYTES, size), self._container.bytes - first)
            self._window = self._lake.read(
                self._container.object_key, offset=first, length=length, etag=self._container.etag
            )
            self._start = first
        self._position = last
        return self._window[first - self._start : last - self._start]
