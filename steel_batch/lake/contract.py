"""What every kind of store provides; `Lake` documents each method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

from steel_batch.errors import LakeError, LargeObjectError

T = TypeVar("T")


def why_unusable(key: str, *, prefix: bool = False) -> str | None:
    """Why nothing can be read or written under a key, as a phrase; None if it can.

    Buckets may hold such keys, and folders may hold names that are not UTF-8: listings show them.

    Args:
        key: Relative to the lake's root.
        prefix: Whether it is a prefix of keys, whose last part may be anything.
    """
    parts = f"/{key[: key.rfind('/') + 1]}" if prefix else f"/{key}/"
    if "//" in parts or "/./" in parts or "/../" in parts or "\\" in key or "\0" in key:
        return (
            "it must stay under the lake's root, without '.', '..', empty parts, backslashes or NUL"
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeObject:
    """One object, as in a listing."""

    key: str
    """Relative to the lake's root. If nothing can be read under it (`why_unusable`), it is for
    messages only; a folder's names that are not UTF-8 have their bytes as ``\\xff`` in it."""
    size_bytes: int
    etag: str
    """Changes when the content does; in a folder, made of the time of change and the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPage:
    """Some objects of a listing, column by column; see `LakeObject` for each column."""

    keys: list[str]
    sizes_bytes: list[int]
    etags: list[str]

    def objects(self) -> Iterator[LakeObject]:
        """The same, one by one."""
        for key, size_bytes, etag in zip(self.keys, self.sizes_bytes, self.etags, strict=True):
            yield LakeObject(key=key, size_bytes=size_bytes, etag=etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """A whole object, or a range of its bytes."""

    key: str
    offset: int = 0
    length: int | None = None
    etag: str | None = None
    """If given, an object with another etag is a `ChangedObjectError`."""
    max_bytes: int | None = None
    """Where given, more bytes than this are a `LargeObjectError`, and none of them is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadObject:
    """What a request read."""

    data: bytes
    etag: str
    """The object's, as it was read; empty if nothing was asked for."""


def too_large(what: str, num_bytes: int, max_bytes: int) -> LargeObjectError:
    """What is raised in place of reading more bytes than are wanted."""
    return LargeObjectError(f"{what} has {num_bytes:,} bytes; at most {max_bytes:,} are read.")


class Backend(Protocol):
    """What every kind of store provides; see `Lake` for each method's contract."""

    def list_objects(self, prefix: str) -> Iterator[LakeObject]: ...
    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]: ...
    def list_pages(self, prefix: str) -> Iterator[ListedPage]: ...
    def list_dirs(self, prefix: str, skips: Callable[[str], bool]) -> Iterator[str]: ...
    def leads_out(self, key: str) -> bool: ...
    def stat(self, key: str) -> LakeObject | None: ...
    def age_seconds(self, key: str) -> float | None: ...
    def read_objects(self, requests: Sequence[ReadRequest]) -> list[ReadObject | LakeError]: ...
    def write(self, key: str, data: bytes) -> None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def race(self, key: str, data: bytes) -> bool: ...
    def delete(self, keys: Iterable[str]) -> None: ...
    def copy(self, source: str, target: str) -> None: ...
    def open_input(self, key: str) -> BinaryIO: ...
    def open_output(self, key: str) -> AbstractContextManager[BinaryIO]: ...
    def sweep(self, older_seconds: float, dry_run: bool) -> list[LakeObject]: ...
    def storage_options(self) -> dict[str, str]: ...
    def call_with_retry(self, what: str, request: Callable[[], T]) -> T: ...
    def counts(self) -> dict[str, int]: ...
