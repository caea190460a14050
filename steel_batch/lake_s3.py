"""A lake in an S3 bucket, through s3fs.

Requests are made one by one and retried here, in one place, so that limits hold and every retry is
counted; s3fs's and botocore's own retries are off. The number of reads at once follows the store:
halved when it asks to slow down, raised by one after every round of successes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, Final, TypeVar, cast

import aiohttp
import botocore.exceptions
import botocore.parsers
import botocore.session
import s3fs
from fsspec.asyn import sync

from steel_batch.errors import (
    ChangedObjectError,
    LakeError,
    MissingObjectError,
    TransientLakeError,
)
from steel_batch.lake import LakeObject, ReadRequest
from steel_batch.retry import Retry, Stats

log = logging.getLogger("steel_batch.lake")
T = TypeVar("T")

READS_AT_ONCE: Final = 32
PART_BYTES: Final = 32 << 20
"""Uploads above this size go in parts; a retry repeats one part."""
TIMEOUT_SECONDS: Final = 30.0
_PASSING: Final = {
    "SlowDown", "ServiceUnavailable", "InternalError", "InternalServerError", "RequestTimeout",
    "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "BandwidthLimitExceeded",
    "OperationAborted", "ConditionalRequestConflict",
    "500", "502", "503", "504", "429", "408", "409",
}  # fmt: skip
_SLOW: Final = {"SlowDown", "ServiceUnavailable", "503", "429", "Throttling"}
_REFUSED: Final = {
    "AccessDenied", "403", "Forbidden", "ExpiredToken", "ExpiredTokenException", "RequestExpired",
    "TokenRefreshRequired", "InvalidToken",
}  # fmt: skip
_MISSING: Final = {"NoSuchKey", "404", "NotFound"}
_EXISTS: Final = {"PreconditionFailed", "412"}


class Bucket:
    """See `steel_batch.lake.Lake`."""

    def __init__(self, url: str, endpoint_url: str | None, retry: Retry) -> None:
        self._bucket, _, root = url.removeprefix("s3://").partition("/")
        self._root = f"{root}/" if root else ""
        self._url = url
        self._retry = retry
        self._endpoint_url = endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
        self._stats = Stats()
        self._limit = _Limit(READS_AT_ONCE)
        self._fs = s3fs.S3FileSystem(
            endpoint_url=self._endpoint_url,
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "retries": {"max_attempts": 0},
                "connect_timeout": TIMEOUT_SECONDS,
                "read_timeout": TIMEOUT_SECONDS,
                "max_pool_connections": 2 * READS_AT_ONCE,
            },
        )
        self._fs.retries = 1

    def list_objects(self, prefix: str) -> Iterator[LakeObject]:
        for page in self._pages(prefix, delimiter=""):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield LakeObject(
                        key=item["Key"][len(self._root) :],
                        size_bytes=item["Size"],
                        etag=item["ETag"].strip('"'),
                    )

    def list_dirs(self, prefix: str) -> Iterator[str]:
        for page in self._pages(prefix, delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"][len(self._root) :]

    def _pages(self, prefix: str, *, delimiter: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._run(
                f"listing {self._url}/{prefix}",
                partial(
                    self._call_bucket,
                    "list_objects_v2",
                    Prefix=self._root + prefix,
                    Delimiter=delimiter,
                    **token,
                ),
            )
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def stat(self, key: str) -> LakeObject | None:
        try:
            head = self._run(f"{self._url}/{key}", lambda: self._call("head_object", key))
        except MissingObjectError:
            return None
        return LakeObject(key=key, size_bytes=head["ContentLength"], etag=head["ETag"].strip('"'))

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        async def read_all() -> list[bytes | LakeError]:
            return await asyncio.gather(*(self._read(request) for request in requests))

        results: list[bytes | LakeError] = sync(self._fs.loop, read_all)
        return results

    async def _read(self, request: ReadRequest) -> bytes | LakeError:
        try:
            return await self._retried(
                f"{self._url}/{request.key}", lambda: self._get(request), limit=self._limit
            )
        except _ExistsError:
            return ChangedObjectError(f"{self._url}/{request.key} was changed.")
        except LakeError as error:
            return error

    async def _get(self, request: ReadRequest) -> bytes:
        options: dict[str, str] = {}
        if request.etag is not None:
            options["IfMatch"] = f'"{request.etag}"'
        if request.offset or request.length is not None:
            end = "" if request.length is None else str(request.offset + request.length - 1)
            options["Range"] = f"bytes={request.offset}-{end}"
        if request.length == 0:
            return b""
        response = await self._call("get_object", request.key, **options)
        async with response["Body"] as body:
            data: bytes = await body.read()
        wanted = response["ContentLength"] if request.length is None else request.length
        name = f"{self._url}/{request.key}"
        if len(data) != wanted:
            raise TransientLakeError(f"{name}: read {len(data)} bytes, expected {wanted}.")
        etag = response["ETag"].strip('"')
        if "Range" not in options and _is_md5(etag, response):
            found = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if found != etag:
                raise TransientLakeError(f"{name}: read bytes of MD5 {found}, expected {etag}.")
        self._stats.add("bytes_read", len(data))
        return data

    def write(self, key: str, data: bytes) -> None:
        self._run(f"{self._url}/{key}", lambda: self._call("put_object", key, Body=data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            self._run(
                f"{self._url}/{key}",
                lambda: self._call("put_object", key, Body=data, IfNoneMatch="*"),
            )
        except _ExistsError as error:
            # Where an earlier try was answered by a fault, what exists may be our own.
            return error.after_fault and self.read_many([ReadRequest(key=key)]) == [data]
        return True

    def delete(self, keys: Iterable[str]) -> None:
        stream = iter(keys)
        while batch := list(islice(stream, 1000)):
            objects = [{"Key": self._root + key} for key in batch]
            answer = self._run(
                f"deleting from {self._url}",
                partial(
                    self._call_bucket,
                    "delete_objects",
                    Delete={"Objects": objects, "Quiet": True},
                ),
            )
            for failed in answer.get("Errors", ()):
                raise LakeError(
                    f"s3://{self._bucket}/{failed['Key']} is not deleted: {failed['Code']}."
                )

    def copy(self, source: str, target: str) -> None:
        found = self.stat(source)
        if found is None:
            raise MissingObjectError(f"{self._url}/{source} is not there.")
        self._run(
            f"{self._url}/{target}",
            lambda: self._fs._cp_file(
                f"{self._bucket}/{self._root}{source}", f"{self._bucket}/{self._root}{target}"
            ),
        )

    def open_input(self, key: str) -> BinaryIO:
        found = self.stat(key)
        if found is None:
            raise MissingObjectError(f"{self._url}/{key} is not there.")
        return cast(BinaryIO, _RangeReader(self, found))

    @contextlib.contextmanager
    def open_output(self, key: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as scratch:
            yield scratch
            size = scratch.tell()
            scratch.seek(0)
            if size <= PART_BYTES:
                self.write(key, scratch.read())
            else:
                self._upload(key, scratch)

    def _upload(self, key: str, source: BinaryIO) -> None:
        name = f"{self._url}/{key}"
        upload = self._run(name, lambda: self._call("create_multipart_upload", key))["UploadId"]
        try:
            parts = []
            for number, data in enumerate(iter(lambda: source.read(PART_BYTES), b""), start=1):
                part = self._run(
                    name,
                    partial(
                        self._call,
                        "upload_part",
                        key,
                        PartNumber=number,
                        UploadId=upload,
                        Body=data,
                    ),
                )
                parts.append({"PartNumber": number, "ETag": part["ETag"]})
            self._run(
                name,
                lambda: self._call(
                    "complete_multipart_upload",
                    key,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                ),
            )
        except BaseException:
            with contextlib.suppress(LakeError):
                self._run(name, lambda: self._call("abort_multipart_upload", key, UploadId=upload))
            raise

    def storage_options(self) -> dict[str, str]:
        session = botocore.session.get_session()
        region = session.get_config_variable("region") or "us-east-1"
        seconds = int(self._retry.total_seconds)
        options = {
            "AWS_REGION": region, "max_retries": "1000", "retry_timeout": f"{seconds}s",
        }  # fmt: skip
        if self._endpoint_url:
            options["AWS_ENDPOINT_URL"] = self._endpoint_url
            if self._endpoint_url.startswith("http://"):
                options["AWS_ALLOW_HTTP"] = "true"
        credentials = session.get_credentials()
        if credentials is not None:
            frozen = credentials.get_frozen_credentials()
            options["AWS_ACCESS_KEY_ID"] = frozen.access_key
            options["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key
            if frozen.token:
                options["AWS_SESSION_TOKEN"] = frozen.token
        return options

    def counts(self) -> dict[str, int]:
        return {**self._stats.snapshot(), "reads_at_once": self._limit.limit}

    def _call(self, method: str, key: str, **options: Any) -> Awaitable[Any]:
        return self._call_bucket(method, Key=self._root + key, **options)

    def _call_bucket(self, method: str, **options: Any) -> Awaitable[Any]:
        # The awaitable form of its public call_s3, which blocks.
        call: Awaitable[Any] = self._fs._call_s3(method, Bucket=self._bucket, **options)
        return call

    def _run(self, what: str, request: Callable[[], Awaitable[T]]) -> T:
        result: T = sync(self._fs.loop, self._retried, what, request)
        return result

    async def _retried(
        self, what: str, request: Callable[[], Awaitable[T]], *, limit: _Limit | None = None
    ) -> T:
        """Make a request until it succeeds, surely fails, or the limits of `Retry` are reached."""
        pauses = self._retry.pauses()
        num_refusals = num_faults = 0
        while True:
            self._stats.add("requests")
            try:
                async with limit or contextlib.nullcontext():
                    result = await request()
            except Exception as error:  # noqa: BLE001 - sorted by kind right here
                kind, failure = _sort(error, what, self._bucket)
            else:
                if limit is not None:
                    limit.succeeded()
                return result
            if isinstance(failure, _ExistsError):
                raise _ExistsError(str(failure), after_fault=num_faults > 0)
            if kind in _REFUSED:
                num_refusals += 1
                if num_refusals >= self._retry.max_refusals:
                    raise failure
                await self._fs.set_session(refresh=True)
            elif not isinstance(failure, TransientLakeError):
                raise failure
            if kind in _SLOW and limit is not None:
                limit.slow_down()
            num_faults += 1
            pause = next(pauses, None)
            if pause is None:
                raise failure
            self._stats.add(f"retries_{kind}")
            log.info("%s: %s; trying again in %.1f s", what, kind, pause)
            await asyncio.sleep(pause)


class _ExistsError(LakeError):
    """A conditional put found an object."""

    def __init__(self, message: str = "", *, after_fault: bool = False) -> None:
        super().__init__(message)
        self.after_fault = after_fault


class _Limit:
    """Requests at once: additive increase, multiplicative decrease. Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._active = 0
        self._successes = 0
        self._slowed = 0.0
        self._changed: asyncio.Condition | None = None

    async def __aenter__(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Condition()
        async with self._changed:
            await self._changed.wait_for(lambda: self._active < self.limit)
            self._active += 1

    async def __aexit__(self, *_: object) -> None:
        assert self._changed is not None  # noqa: S101 - set on entry
        async with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def succeeded(self) -> None:
        self._successes += 1
        if self._successes >= self.limit and self.limit < self._most:
            self.limit, self._successes = self.limit + 1, 0

    def slow_down(self) -> None:
        # Of the answers to requests that were under way together, the first one counts.
        if time.monotonic() - self._slowed > 1.0:
            self.limit, self._successes = max(1, self.limit // 2), 0
            self._slowed = time.monotonic()


class _RangeReader(io.RawIOBase):
    """An object as a seekable stream; every read is one ranged request."""

    def __init__(self, bucket: Bucket, item: LakeObject) -> None:
        self._bucket = bucket
        self._item = item
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._item.size_bytes}
        self._position = base[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._item.size_bytes - self._position)
        length = left if size < 0 else min(size, left)
        request = ReadRequest(
            key=self._item.key, offset=self._position, length=length, etag=self._item.etag
        )
        (data,) = self._bucket.read_many([request])
        if isinstance(data, LakeError):
            raise data
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _is_md5(etag: str, response: dict[str, Any]) -> bool:
    encryption = response.get("ServerSideEncryption", "")
    return (
        len(etag) == 32
        and all(c in "0123456789abcdef" for c in etag)
        and not str(encryption).startswith("aws:kms")
        and "SSECustomerAlgorithm" not in response
    )


def _sort(error: Exception, what: str, bucket: str) -> tuple[str, LakeError]:
    """The kind of a failure and the error to raise if it stands."""
    if isinstance(error, LakeError):
        return "short_read", error
    client = error
    while client is not None and not isinstance(client, botocore.exceptions.ClientError):
        client = client.__cause__  # type: ignore[assignment] # s3fs raises OSError from it
    if isinstance(client, botocore.exceptions.ClientError):
        code = str(client.response.get("Error", {}).get("Code", "unknown"))
        return code, _error_of_code(code, what, bucket)
    if isinstance(error, (botocore.exceptions.NoCredentialsError, PermissionError)):
        return "credentials", LakeError(
            f"{what}: no usable AWS credentials were found. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give this host a role."
        )
    if isinstance(error, FileNotFoundError):
        return "NoSuchKey", MissingObjectError(f"{what} is not there.")
    passing = (
        botocore.exceptions.HTTPClientError,
        botocore.exceptions.ConnectionError,
        botocore.exceptions.ResponseStreamingError,
        botocore.exceptions.ReadTimeoutError,
        botocore.exceptions.IncompleteReadError,
        botocore.parsers.ResponseParserError,
        aiohttp.ClientError,
        asyncio.TimeoutError,
        ConnectionError,
        TimeoutError,
        OSError,
    )
    kind = type(error).__name__
    if isinstance(error, passing):
        return kind, TransientLakeError(f"{what}: {kind}: {error}".rstrip(": ") + ".")
    return kind, LakeError(f"{what}: {kind}: {error}.")


def _error_of_code(code: str, what: str, bucket: str) -> LakeError:
    if code in _MISSING:
        return MissingObjectError(f"{what} is not there.")
    if code == "NoSuchBucket":
        return LakeError(f"there is no bucket {bucket!r}: check the URL and --endpoint-url.")
    if code in _EXISTS:
        return _ExistsError(f"{what} exists or was changed.")
    if code in _PASSING:
        return TransientLakeError(f"{what}: the store answers {code}.")
    if code in _REFUSED:
        return LakeError(
            f"{what}: the store refuses ({code}): check that these credentials are in force and "
            "may read, write and list there."
        )
    return LakeError(f"{what}: the store answers {code}.")
