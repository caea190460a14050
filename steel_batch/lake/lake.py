"""The object store behind a URL: a local folder or an S3 bucket, with the same guarantees.

Writes are atomic: an object is completely there or not at all. `put_if_absent` is the one primitive
on which everything that must happen exactly once is built. Keys are relative to the lake's root; a
key that would leave it is refused before any request.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from steel_batch import interrupt
from steel_batch.errors import ConfigError, LakeError, MissingObjectError
from steel_batch.lake.contract import (
    Backend,
    LakeObject,
    ListedPage,
    ReadObject,
    ReadRequest,
    why_unusable,
)
from steel_batch.lake.retry import Retry

T = TypeVar("T")
_NOT_IN_TABLES: Final = re.compile(r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f\\]")
_NOT_IN_TABLES_ON_S3: Final = re.compile(
    r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f\\#?]|(?<!:)//|(?<=/)\.\.?(?=/|$)"
)


def check_url(url: str) -> str:
    """Return `url` if it can name a folder or a bucket's prefix; makes no request.

    Raises:
        ConfigError: It is empty or malformed.
    """
    expected = "expected a folder or s3://bucket/prefix"
    if not url.strip():
        raise ConfigError(f"{url!r} names no place: {expected}. Is a shell variable unset?")
    if url != url.strip() or "\0" in url or "\n" in url:
        raise ConfigError(f"{url!r} has white space around it or a line break: {expected}.")
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in ("s3", "file"):
        raise ConfigError(f"{url!r} has an unsupported scheme: {expected}.")
    if not separator and url.lower().startswith(("s3:", "file:")):
        raise ConfigError(f"{url!r} lacks '//' after ':': {expected}.")
    if separator and "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"{url!r} holds a user or password: give it without, and credentials in the "
            "environment or a profile of AWS's."
        )
    if scheme == "s3" and separator and not rest.partition("/")[0]:
        raise ConfigError(f"{url!r} names no bucket: expected s3://bucket/prefix.")
    return url


def check_store(url: str) -> str:
    """Return `url` if tables can lie there; makes no request.

    Libraries that read Delta tables parse the table's place as a URL: they decode it, and resolve
    its dots. So they would work at another place than all else does.

    Raises:
        ConfigError: It is none, or such a library would find another place there.
    """
    place = Lake(url)
    pattern = _NOT_IN_TABLES_ON_S3 if place.is_s3 else _NOT_IN_TABLES
    if found := pattern.search(place.url):
        raise ConfigError(
            f"{place.url!r} contains {found[0]!r}: libraries for Delta tables would look for the "
            "tables at another place. Use a name without it for the store."
        )
    return url


def check_endpoint(url: str) -> str:
    """Return `url` if it can be an S3 endpoint.

    Raises:
        ConfigError: It cannot.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https") or not rest.strip("/") or " " in rest:
        raise ConfigError(
            f"{url!r} is not an endpoint: expected http://host:port or https://host, such as "
            "http://127.0.0.1:9000."
        )
    if "@" in rest.partition("/")[0] or "?" in rest or "#" in rest:
        raise ConfigError(
            f"{url!r} holds a user, a password or a query: give the endpoint alone, and "
            "credentials in the environment or a profile of AWS's."
        )
    return url


class Lake:
    """One root in an object store. Cheap to create and to pickle; connects on first use.

    If a signal asked this process to stop, each method raises `Interrupted` before it begins.

    Lakes with the same root in one process share a connection, its limits and its counts.

    Args:
        url: ``s3://bucket/prefix``, ``file://…``, or a folder's path.
        endpoint_url: An S3 endpoint other than AWS's.
        retry: Limits of retries.
        single_writer: The store cannot decide between two writers, and there is only one: see
            `probe.writable`. `put_if_absent` then checks before it writes; no second writer may
            run at the same time.
        follow_links: Whether links in a folder are followed where they lead out of it. A bucket
            has none.

    Raises:
        ConfigError: The URL is not supported.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        retry: Retry | None = None,
        single_writer: bool = False,
        follow_links: bool = False,
    ) -> None:
        scheme, separator, rest = check_url(url).partition("://")
        self.is_s3 = bool(separator) and scheme == "s3"
        if self.is_s3:
            self.url = url.rstrip("/")
        else:
            self.url = str(Path(rest if separator else url).expanduser().absolute())
        self.endpoint_url = endpoint_url
        self.retry = retry or Retry()
        self.single_writer = single_writer
        self.follow_links = follow_links

    def __repr__(self) -> str:
        return f"Lake({self.url!r})"

    @property
    def _backend(self) -> Backend:
        interrupt.check()
        return _open(
            self.url, self.endpoint_url, self.retry, self.is_s3, self.follow_links, os.getpid()
        )

    def with_retry(self, retry: Retry) -> Lake:
        """The same root with other limits of retries."""
        other = copy.copy(self)
        other.retry = retry
        return other

    def for_single_writer(self) -> Lake:
        """The same root, for the only writer of a store that cannot decide between two."""
        other = copy.copy(self)
        other.single_writer = True
        return other

    def uri(self, key: str = "") -> str:
        """The absolute URL or path of a key, for other libraries and for messages."""
        return f"{self.url}/{key}".rstrip("/") if key else self.url

    def list_objects(self, prefix: str = "") -> Iterator[LakeObject]:
        """Stream every object whose key begins with `prefix`, in the order in which it is found.

        A prefix that does not exist lists nothing. What is there and cannot be read, as it is a
        FIFO, a socket, a device or a link to nothing or out of the root, is listed with no bytes.

        Raises:
            OutsideLakeError: The prefix's folder is a link out of the root.
        """
        return _interruptible(self._backend.list_objects(_checked(prefix, prefix=True)))

    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]:
        """Stream what `list_objects` finds whose key comes after another one, byte by byte.

        A bucket lists nothing before it, so the cost does not grow with what is there.
        """
        return _interruptible(self._backend.list_after(_checked(prefix, prefix=True), after))

    def list_pages(self, prefix: str = "") -> Iterator[ListedPage]:
        """The same as `list_objects`, many objects at a time: much less work for each."""
        return _interruptible(self._backend.list_pages(_checked(prefix, prefix=True)))

    def list_dirs(
        self, prefix: str = "", *, skips: Callable[[str], bool] = lambda _: False
    ) -> Iterator[str]:
        """Yield the folders, one level down, whose path begins with `prefix`; each ends in '/'.

        Links out of the root are among them; see `leads_out`.

        Args:
            prefix: The beginning of the paths.
            skips: Whether a folder, by its path and '/', is left out. It is not looked into.
        """
        return self._backend.list_dirs(_checked(prefix, prefix=True), skips)

    def leads_out(self, key: str) -> bool:
        """Whether a folder or file is reached by a link out of the root that is not followed."""
        return self._backend.leads_out(_checked(key))

    def stat(self, key: str) -> LakeObject | None:
        """One object's size and etag, or None if there is none.

        Raises:
            NotAFileError: It is a FIFO, a socket or a device.
            OutsideLakeError: It is a link out of the root.
        """
        return self._backend.stat(_checked(key))

    def age_seconds(self, key: str) -> float | None:
        """Seconds since an object was written, by the store's clock; None if there is none.

        Accurate to about a second. Does not depend on this machine's clock.
        """
        return self._backend.age_seconds(_checked(key))

    def read(
        self,
        key: str,
        *,
        offset: int = 0,
        length: int | None = None,
        etag: str | None = None,
        max_bytes: int | None = None,
    ) -> bytes:
        """Read an object's bytes.

        Raises:
            MissingObjectError: There is none.
            ChangedObjectError: Its etag is not `etag`.
            LargeObjectError: There are more bytes than `max_bytes`, or no memory for them.
            NotAFileError: It is a FIFO, a socket or a device.
            OutsideLakeError: It is a link out of the root.
            TransientLakeError: The store kept failing.
            LakeError: The store refused the request.
        """
        request = ReadRequest(key=key, offset=offset, length=length, etag=etag, max_bytes=max_bytes)
        (result,) = self.read_many([request])
        if isinstance(result, LakeError):
            raise result
        return result

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        """Read several objects concurrently; if one fails, its error takes its place.

        The length of each answer is checked, and its digest if the store states one.
        """
        found = self.read_objects(requests)
        return [result.data if isinstance(result, ReadObject) else result for result in found]

    def read_objects(self, requests: Sequence[ReadRequest]) -> list[ReadObject | LakeError]:
        """The same as `read_many`, each with the etag of the object that was read."""
        results: dict[int, ReadObject | LakeError] = {}
        asked: list[int] = []
        for i, request in enumerate(requests):
            try:
                _checked(request.key)
                asked.append(i)
            except LakeError as error:
                # An unusable key from a manifest: no such object can exist.
                results[i] = MissingObjectError(error.message)
        found = self._backend.read_objects([requests[i] for i in asked])
        results.update(zip(asked, found, strict=True))
        return [results[i] for i in range(len(requests))]

    def write(self, key: str, data: bytes) -> None:
        """Create or replace an object, atomically."""
        self._backend.write(_checked(key), data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object if there is none.

        Of any number of callers exactly one gets True, whatever the network does; with
        `single_writer`, only if they call one after the other.
        """
        if self.single_writer:
            if self.stat(key) is not None:
                return False
            self.write(key, data)
            return True
        return self._backend.put_if_absent(_checked(key), data)

    def race(self, key: str, data: bytes) -> bool:
        """Create an object if there is none, and do not ask who created it if there is one.

        So a caller may get False whose object it is: an attempt whose answer was lost wrote it.
        """
        return self._backend.race(_checked(key), data)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored."""
        self._backend.delete(_checked(key) for key in keys)

    def copy(self, source: str, target: str) -> None:
        """Copy within this lake, without a transfer through this machine; atomic at the target."""
        self._backend.copy(_checked(source), _checked(target))

    def open_input(self, key: str) -> BinaryIO:
        """Open an object as a seekable stream, for readers of Parquet."""
        return self._backend.open_input(_checked(key))

    def open_output(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A stream that becomes the object when the block ends, or nothing if it raises."""
        return self._backend.open_output(_checked(key))

    def sweep(self, older_seconds: float, *, dry_run: bool = False) -> list[LakeObject]:
        """Delete the incomplete writes of dead processes, which no listing shows.

        Args:
            older_seconds: Younger ones may still be in progress.
            dry_run: Find them, but delete nothing.

        Returns:
            What was found: scratch files in a folder; in a bucket, incomplete uploads, each with
            the bytes of its parts.
        """
        return self._backend.sweep(older_seconds, dry_run)

    def storage_options(self) -> dict[str, str]:
        """Options for delta-rs to reach the same store. Contains credentials: never log it."""
        return self._backend.storage_options()

    def call_with_retry(self, what: str, request: Callable[[], T]) -> T:
        """Let another library make requests to the store, with this lake's retries.

        Args:
            what: Description of the request, for messages.
            request: Makes the request with `storage_options`, which it must get in each attempt, as
                credentials may change. It must be idempotent.

        Raises:
            LakeError: The store refused, or kept failing; its answer is in the message.
            Exception: What `request` raised, if it is not a failure of the store.
        """
        return self._backend.call_with_retry(what, request)

    def counts(self) -> dict[str, int]:
        """Counts of this process's requests: requests, bytes, and retries by kind."""
        return self._backend.counts()


def _interruptible(found: Iterator[T]) -> Iterator[T]:
    for item in found:
        interrupt.check()
        yield item


@functools.lru_cache(maxsize=64)
def _open(
    url: str,
    endpoint_url: str | None,
    retry: Retry,
    is_s3: bool,
    follow_links: bool,
    _pid: int,
) -> Backend:
    """This process's connection; a connection made before a fork is not used after it."""
    if is_s3:
        from steel_batch.lake.s3 import Bucket  # takes a third of a second that folders save

        return Bucket(url, endpoint_url, retry)
    from steel_batch.lake.folder import Folder  # imports this module

    return Folder(Path(url), follow_links=follow_links)


def _checked(key: str, *, prefix: bool = False) -> str:
    reason = why_unusable(key, prefix=prefix)
    if reason is not None:
        raise LakeError(f"the key {key!r} is refused: {reason}.")
    return key
