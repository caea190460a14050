"""All members of a tar, in order, whatever was appended to it.

A file may hold several archives, one after the other (``cat 1.tar 2.tar``). A header states where
the next one is, so the headers of an archive form a chain; `tar_ahead` reads further parts of the
chain of a large archive at the same time.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Final

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import InputError
from steel_batch.lake import Lake
from steel_batch.sources.magic import kind_of
from steel_batch.sources.tar_ahead import READ_AHEAD, Ahead, Chain, Pace
from steel_batch.sources.tar_headers import DAMAGE, Headers, Member
from steel_batch.sources.tar_stream import BLOCK_BYTES, MAX_HEADER_BYTES, HeaderStream

RECORD_BYTES: Final = tarfile.RECORDSIZE
"""Writers pad the last record to this size; some of them with leftover memory."""
MAX_PADDING_BYTES: Final = 64 << 20
"""Zeros behind an end mark: tapes have records of a megabyte, and a sparse file may have any
number."""


def tar_members(
    lake: Lake,
    key: str,
    size_bytes: int,
    etag: str,
    limits: Limits = LIMITS,
    *,
    pace: Pace | None = None,
) -> Iterator[Member]:
    """Yield every member of a tar, including those of tars appended to it.

    Args:
        lake: Where it lies.
        key: Its key.
        size_bytes: Its size.
        etag: Its etag.
        limits: How many members and how long headers are read.
        pace: What is read ahead; None for what suits the lake: nothing in a folder, where a
            request costs nothing.

    Raises:
        InputError: It is damaged, cut off, or no tar; or has more members than are read.
        ChangedObjectError: Its etag is another one by now.
    """
    if pace is None and lake.is_s3:
        pace = READ_AHEAD

    def open_stream(until: int | None) -> HeaderStream:
        return HeaderStream(
            lake, key, size_bytes, etag, limits.tar_header_bytes,
            read_through=pace is not None, until=until,
        )  # fmt: skip

    stream = open_stream(None)
    ahead = None if pace is None else Ahead(open_stream, size_bytes, pace)
    num_members = 0
    start: int | None = 0
    try:
        while start is not None:
            chain = Chain(Headers(stream, start, size_bytes, {}), ahead)
            for member in chain:
                num_members += 1
                if num_members > limits.tar_members:
                    raise InputError(
                        f"{lake.uri(key)} has more than {limits.tar_members:,} members (limit "
                        "tar-members): pack the images into smaller tars."
                    )
                if isinstance(member, Exception):
                    raise member
                yield member
            start = _next_archive(stream, chain.position, size_bytes)
    except DAMAGE as error:
        if isinstance(error, RecursionError):
            error = tarfile.ReadError("extended headers without a member")
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
    finally:
        if ahead is not None:
            ahead.close()


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
