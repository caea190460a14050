"""Objects of a bucket as streams: read in ranges, written in parts."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from steel_batch.errors import LakeError
from steel_batch.lake.contract import LakeObject, ReadObject, ReadRequest
from steel_batch.lake.seekable import Seekable

TOKEN: Final = "steel-batch-token"  # noqa: S105 - a metadata key
"""Metadata by which a writer recognises its object after a fault."""


class Requests(Protocol):
    """The requests that a stream makes to its bucket."""

    def read_objects(self, requests: Sequence[ReadRequest]) -> list[ReadObject | LakeError]:
        """See `Lake.read_objects`."""

    def write(self, key: str, data: bytes) -> None:
        """See `Lake.write`."""

    def request(self, method: str, key: str, **options: Any) -> dict[str, Any]:
        """Make one request of the S3 API about an object, with the bucket's retries."""

    def token_of(self, key: str) -> str | None:
        """The `TOKEN` that an object's writer stored with it."""


class RangeReader(Seekable):
    """An object as a seekable stream; a read before its tail is one range request.

    If the object has changed since it was opened, reads raise `ChangedObjectError`.

    Args:
        bucket: Where the object lies.
        item: The object.
        tail: Its last bytes, which were read when it was opened; possibly none.
    """

    def __init__(self, bucket: Requests, item: LakeObject, tail: bytes = b"") -> None:
        super().__init__(item.size_bytes)
        self._bucket = bucket
        self._item = item
        self._tail = tail

    def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, or all that are left."""
        length = self.left_of(size)
        if length == 0:
            return b""
        tail_start = self.size_bytes - len(self._tail)
        if self._position >= tail_start:
            start = self._position - tail_start
            self._position += length
            return self._tail[start : start + length]
        request = ReadRequest(
            key=self._item.key, offset=self._position, length=length, etag=self._item.etag
        )
        (found,) = self._bucket.read_objects([request])
        if isinstance(found, LakeError):
            raise found
        self._position += length
        return found.data


class PartWriter(io.RawIOBase):
    """Collects an object's bytes; beyond `part_bytes`, uploads them in parts of that size.

    Nothing is visible before `finish`. Holds at most one part and the last write in memory.
    """

    def __init__(self, bucket: Requests, key: str, part_bytes: int) -> None:
        self._bucket = bucket
        self._key = key
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._upload: MultipartUpload | None = None
        self._position = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Number of bytes written."""
        return self._position

    def write(self, data: Any) -> int:
        """Add bytes; uploads full parts."""
        num_bytes = memoryview(data).nbytes
        self._buffer += data
        self._position += num_bytes
        while len(self._buffer) > self._part_bytes:
            if self._upload is None:
                self._upload = MultipartUpload(self._bucket, self._key)
            self._upload.put_part(bytes(self._buffer[: self._part_bytes]))
            del self._buffer[: self._part_bytes]
        return num_bytes

    def finish(self) -> None:
        """Make the object visible."""
        if self._upload is None:
            self._bucket.write(self._key, bytes(self._buffer))
        else:
            self._upload.put_part(bytes(self._buffer))
            self._upload.complete()

    def abandon(self) -> None:
        """Delete what was uploaded so far."""
        if self._upload is not None:
            self._upload.abort()


class MultipartUpload:
    """An object uploaded in parts, in order; it becomes visible when it is complete."""

    def __init__(self, bucket: Requests, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._parts: list[dict[str, Any]] = []
        self._token = uuid.uuid4().hex
        created = bucket.request("create_multipart_upload", key, Metadata={TOKEN: self._token})
        self._id = str(created["UploadId"])

    def put_part(self, data: bytes) -> None:
        """Upload the next part."""
        self._add(lambda part: self._bucket.request("upload_part", self._key, **part, Body=data))

    def copy_part(self, source: dict[str, str], first: int, last: int) -> None:
        """Append a range of another object, without a transfer through this machine."""

        def copy(part: dict[str, Any]) -> dict[str, Any]:
            span = f"bytes={first}-{last}"
            answer = self._bucket.request(
                "upload_part_copy", self._key, **part, CopySource=source, CopySourceRange=span
            )
            result: dict[str, Any] = answer["CopyPartResult"]
            return result

        self._add(copy)

    def complete(self) -> None:
        """Make the object visible."""
        try:
            self._bucket.request(
                "complete_multipart_upload",
                self._key,
                UploadId=self._id,
                MultipartUpload={"Parts": self._parts},
            )
        except LakeError:
            # An attempt that seemed to fail may have succeeded: upload gone, object there.
            if self._bucket.token_of(self._key) != self._token:
                raise

    def abort(self) -> None:
        """Delete the uploaded parts."""
        self._bucket.request("abort_multipart_upload", self._key, UploadId=self._id)

    def _add(self, put: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        number = len(self._parts) + 1
        answer = put({"PartNumber": number, "UploadId": self._id})
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
