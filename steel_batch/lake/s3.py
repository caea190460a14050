"""A lake in an S3 bucket, through s3fs.

Builds the requests and checks the answers; `s3_client` sends the requests and retries them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, Final, TypeVar, cast

import botocore.exceptions

from steel_batch.errors import (
    ChangedObjectError,
    LakeError,
    LargeObjectError,
    MissingObjectError,
    TransientLakeError,
    UnsupportedError,
)
from steel_batch.lake.contract import LakeObject, ListedPage, ReadObject, ReadRequest, too_large
from steel_batch.lake.retry import Retry
from steel_batch.lake.s3_client import Client
from steel_batch.lake.s3_faults import ObjectExistsError
from steel_batch.lake.s3_listing import page_of
from steel_batch.lake.s3_ranges import Ranges
from steel_batch.lake.s3_streams import TOKEN, MultipartUpload, PartWriter, RangeReader

T = TypeVar("T")

log = logging.getLogger(__name__)

PART_BYTES: Final = 32 << 20
"""Larger uploads are split into parts; a retry repeats one part. S3 allows 10,000 parts."""
TAIL_BYTES: Final = 64 << 10
"""Read when an object is opened: what PyArrow reads first of a Parquet file, or all of a small one.
"""
COPY_BYTES: Final = 5 << 30
"""The most that S3 copies in one request; a larger object, which it refuses, is copied in parts."""


class Bucket:
    """A lake in an S3 bucket; see `steel_batch.lake.Lake`.

    Args:
        url: ``s3://bucket/prefix``.
        endpoint_url: An endpoint other than AWS's; None uses the environment's.
        retry: Limits of retries.
        part_bytes: Larger uploads are split into parts of this size.
        copy_bytes: The same for copies.
    """

    def __init__(
        self,
        url: str,
        endpoint_url: str | None,
        retry: Retry,
        *,
        part_bytes: int = PART_BYTES,
        copy_bytes: int = COPY_BYTES,
    ) -> None:
        self._bucket, _, root = url.removeprefix("s3://").partition("/")
        self._root = f"{root}/" if root else ""
        self._url = url
        self._part_bytes, self._copy_bytes = part_bytes, copy_bytes
        self._client = Client(endpoint_url, retry)
        self._ranges = Ranges(self._client, self._bucket, self._root)
        self._was_warned = False

    def list_objects(self, prefix: str) -> Iterator[LakeObject]:
        for page in self.list_pages(prefix):
            yield from page.objects()

    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]:
        for page in self.list_pages(prefix, StartAfter=self._root + after):
            # some servers ignore it
            yield from (item for item in page.objects() if item.key > after)

    def list_pages(self, prefix: str, **options: str) -> Iterator[ListedPage]:
        for page in self._pages("list_objects_v2", prefix, **options):
            yield page_of(page, self._root, f"listing {self._url}/{prefix}")

    def list_dirs(self, prefix: str, skips: Callable[[str], bool]) -> Iterator[str]:
        for page in self._pages("list_objects_v2", prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                key = item["Prefix"][len(self._root) :]
                if not skips(key):
                    yield key

    def leads_out(self, key: str) -> bool:  # noqa: ARG002 - a bucket has no links
        return False

    def _pages(self, method: str, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing; each is requested after the previous one is used up."""
        what = f"listing {self._url}/{prefix}"
        while True:
            call = partial(self._call, method, Prefix=self._root + prefix, **options)
            page: dict[str, Any] = self._run(what, call, is_read=True)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, key: str) -> LakeObject | None:
        try:
            head = self.request("head_object", key)
        except MissingObjectError:
            return None
        return LakeObject(key=key, size_bytes=head["ContentLength"], etag=head["ETag"].strip('"'))

    def age_seconds(self, key: str) -> float | None:
        try:
            head = self.request("head_object", key)
        except MissingObjectError:
            return None
        date = head.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        now = parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
        written: datetime = head["LastModified"]
        return max(0.0, (now - written).total_seconds())

    def token_of(self, key: str) -> str | None:
        """The token that an object's writer stored with it; None if there is none."""
        try:
            head = self.request("head_object", key)
        except MissingObjectError:
            return None
        found: str | None = head.get("Metadata", {}).get(TOKEN)
        return found

    def read_objects(self, requests: Sequence[ReadRequest]) -> list[ReadObject | LakeError]:
        return self._client.run(self._read_all(requests), is_read=True)

    async def _read_all(self, requests: Sequence[ReadRequest]) -> list[ReadObject | LakeError]:
        return await asyncio.gather(*(self._read(request) for request in requests))

    async def _read(self, request: ReadRequest) -> ReadObject | LakeError:
        what = f"{self._url}/{request.key}"
        digests: set[str] = set()
        try:
            return await self._client.retried(
                what, lambda: self._get(request, what, digests), at_once=True
            )
        except ObjectExistsError:
            return ChangedObjectError(f"{what} was replaced: its etag has changed.")
        except LakeError as error:
            return error

    async def _get(self, request: ReadRequest, what: str, digests: set[str]) -> ReadObject:
        if request.length == 0:
            return ReadObject(data=b"", etag="")
        ranged = await self._ranges.get(request)
        if ranged is not None:
            data, etag = ranged
            return self._whole_range(request, data, etag, what)
        is_refused = request.etag is not None and self._ranges.is_usable
        options: dict[str, str] = {}
        if request.etag is not None:
            options["IfMatch"] = f'"{request.etag}"'
        if request.offset or request.length is not None:
            end = "" if request.length is None else request.offset + request.length - 1
            options["Range"] = f"bytes={request.offset}-{end}"
        answer = await self._call("get_object", Key=self._root + request.key, **options)
        async with answer["Body"] as body:
            size = answer["ContentLength"]
            if request.max_bytes is not None and size > request.max_bytes:
                raise too_large(what, size, request.max_bytes)
            try:
                data = await body.read()
            except MemoryError as error:
                raise LargeObjectError(
                    f"{what}: there is no memory for {size:,} bytes of it."
                ) from error
        if len(data) != answer["ContentLength"]:
            raise TransientLakeError(
                f"{what}: read {len(data)} bytes, expected {answer['ContentLength']}."
            )
        if is_refused and request.length:
            self._ranges.is_usable = False
        if "Range" not in options:
            _check_digest(data, answer, what, digests)
        return self._whole_range(request, data, answer.get("ETag", ""), what)

    def _whole_range(self, request: ReadRequest, data: bytes, etag: str, what: str) -> ReadObject:
        etag = etag.removeprefix("W/").strip('"')  # weak where a proxy compresses answers
        if request.etag is not None and etag not in ("", request.etag):
            # Of a store that ignores If-Match.
            raise ChangedObjectError(f"{what} was replaced: its etag has changed.")
        if request.length not in (None, len(data)):
            raise ChangedObjectError(f"{what} is shorter than the requested range.")
        self._client.stats.add("bytes_read", len(data))
        return ReadObject(data=data, etag=etag)

    def write(self, key: str, data: bytes) -> None:
        self.request("put_object", key, Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        token = uuid.uuid4().hex
        try:
            self.request("put_object", key, Body=data, IfNoneMatch="*", Metadata={TOKEN: token})
        except ObjectExistsError:
            # The existing object may be our own: written by an attempt whose answer was lost, here
            # or in the HTTP client, which repeats a PUT if a kept connection breaks.
            return self.token_of(key) == token
        return True

    def race(self, key: str, data: bytes) -> bool:
        try:
            self.request("put_object", key, Body=data, IfNoneMatch="*")
        except ObjectExistsError:
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        stream = iter(keys)
        while batch := [{"Key": self._root + key} for key in islice(stream, 1000)]:
            self._run(f"deleting from {self._url}", partial(self._delete, batch))

    async def _delete(self, batch: Sequence[dict[str, str]]) -> None:
        answer = await self._call("delete_objects", Delete={"Objects": batch, "Quiet": True})
        for failed in answer.get("Errors", ()):
            raise botocore.exceptions.ClientError({"Error": failed}, "DeleteObjects")

    def copy(self, source: str, target: str) -> None:
        origin = {"Bucket": self._bucket, "Key": self._root + source}
        try:
            self.request("copy_object", target, CopySource=origin)
        except MissingObjectError:
            raise MissingObjectError(f"{self._url}/{source} is not there.") from None
        except TransientLakeError:
            raise
        except LakeError:  # perhaps it is larger than S3 copies in one request
            found = self.stat(source)
            if found is None or found.size_bytes <= self._copy_bytes:
                raise
        else:
            return
        upload = MultipartUpload(self, target)
        try:
            for first in range(0, found.size_bytes, self._copy_bytes):
                last = min(first + self._copy_bytes, found.size_bytes) - 1
                upload.copy_part(origin, first, last)
            upload.complete()
        except BaseException:
            with contextlib.suppress(LakeError):
                upload.abort()
            raise

    def open_input(self, key: str) -> BinaryIO:
        what = f"{self._url}/{key}"
        try:
            digests: set[str] = set()
            found, tail = self._run(what, lambda: self._tail(key, what, digests), is_read=True)
        except ChangedObjectError:  # of no bytes, there is no range
            empty = self.stat(key)
            if empty is None:
                raise MissingObjectError(f"{what} is not there.") from None
            found, tail = empty, b""
        return cast(BinaryIO, RangeReader(self, found, tail))

    async def _tail(self, key: str, what: str, digests: set[str]) -> tuple[LakeObject, bytes]:
        """An object and its last bytes, in one request."""
        answer = await self._call("get_object", Key=self._root + key, Range=f"bytes=-{TAIL_BYTES}")
        size, length = answer["ContentLength"], answer["ContentLength"]
        if "ContentRange" in answer:
            size = int(answer["ContentRange"].rpartition("/")[2])
        async with answer["Body"] as body:
            # a server that ignores the range answers with the whole object
            data: bytes = await body.read() if length <= TAIL_BYTES else b""
        if data and len(data) != length:
            raise TransientLakeError(f"{what}: read {len(data)} bytes, expected {length}.")
        if size == len(data):
            _check_digest(data, answer, what, digests)
        self._client.stats.add("bytes_read", len(data))
        return LakeObject(key=key, size_bytes=size, etag=answer["ETag"].strip('"')), data

    @contextlib.contextmanager
    def open_output(self, key: str) -> Iterator[BinaryIO]:
        writer = PartWriter(self, key, self._part_bytes)
        try:
            yield cast(BinaryIO, writer)
            writer.finish()
        except BaseException:
            with contextlib.suppress(LakeError):
                writer.abandon()
            raise

    def sweep(self, older_seconds: float, dry_run: bool) -> list[LakeObject]:
        options: dict[str, Any] = {}
        swept: list[LakeObject] = []
        while True:
            call = partial(self._call, "list_multipart_uploads", Prefix=self._root, **options)
            try:
                page: dict[str, Any] = self._run(f"listing uploads to {self._url}", call)
            except UnsupportedError as error:
                if not self._was_warned:
                    log.warning(
                        "incomplete uploads are not cleaned up, as the store does not list them "
                        "(%s): give the bucket a lifecycle rule that aborts them after a day, if "
                        "it supports such rules",
                        error.message.rstrip("."),
                    )
                self._was_warned = True
                return swept
            for upload in page.get("Uploads", ()):
                age = datetime.now(timezone.utc) - upload["Initiated"]
                if age.total_seconds() < older_seconds:
                    continue
                key, upload_id = upload["Key"][len(self._root) :], upload["UploadId"]
                with contextlib.suppress(MissingObjectError):  # its writer was still alive
                    parts = self.request("list_parts", key, UploadId=upload_id).get("Parts", ())
                    if not dry_run:
                        self.request("abort_multipart_upload", key, UploadId=upload_id)
                    size = sum(part["Size"] for part in parts)
                    swept.append(LakeObject(key=key, size_bytes=size, etag=""))
            if not page.get("IsTruncated"):
                return swept
            options["KeyMarker"] = page["NextKeyMarker"]
            options["UploadIdMarker"] = page["NextUploadIdMarker"]

    def storage_options(self) -> dict[str, str]:
        return self._client.storage_options(self._url)

    def call_with_retry(self, what: str, request: Callable[[], T]) -> T:
        return self._client.call_with_retry(what, request)

    def counts(self) -> dict[str, int]:
        return {**self._client.stats.snapshot(), "reads_at_once": self._client.throttle.limit}

    def request(self, method: str, key: str, **options: Any) -> dict[str, Any]:
        """Make a request about one object, with retries."""
        answer: dict[str, Any] = self._run(
            f"{self._url}/{key}",
            lambda: self._call(method, Key=self._root + key, **options),
            is_read=method == "head_object",
        )
        return answer

    def _call(self, method: str, **options: Any) -> Awaitable[Any]:
        return self._client.call(method, Bucket=self._bucket, **options)

    def _run(self, what: str, request: Callable[[], Awaitable[T]], *, is_read: bool = False) -> T:
        return self._client.run(self._client.retried(what, request), is_read=is_read)


def _check_digest(data: bytes, answer: dict[str, Any], what: str, digests: set[str]) -> None:
    """Compare an object's bytes with its etag, if that is their MD5.

    Args:
        data: All bytes of the object.
        answer: The store's.
        what: Description of the request, for the message.
        digests: Those that were found in earlier attempts.

    Raises:
        TransientLakeError: They differ.
    """
    etag = answer["ETag"].strip('"')
    if not _is_md5(etag, answer):
        return
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    # The same bytes twice are what is stored: the etag is another kind of digest.
    if found != etag and found not in digests:
        digests.add(found)
        raise TransientLakeError(f"{what}: read bytes of MD5 {found}, expected {etag}.")


def _is_md5(etag: str, answer: dict[str, Any]) -> bool:
    encryption = answer.get("ServerSideEncryption", "")
    return (
        len(etag) == 32
        and all(c in "0123456789abcdef" for c in etag)
        and not str(encryption).startswith("aws:kms")
        and "SSECustomerAlgorithm" not in answer
    )
