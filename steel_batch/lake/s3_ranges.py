"""Reads ranges of objects by requests that are signed here.

A request through botocore takes a millisecond of CPU under the interpreter's lock, most of it for
checking and formatting arguments, which for a range are always the same. Here, only the signature
is botocore's, and its HTTP session sends the request: a third of the CPU. What is not simply
answered, such as a redirect or a refusal, is left to an ordinary request.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import OrderedDict
from typing import Final

import botocore.exceptions

from steel_batch.lake.contract import ReadRequest
from steel_batch.lake.s3_client import Client

URLS_KEPT: Final = 256
_PARTIAL: Final = 206
_TOLD: Final = (404, 412, 416, 429)
"""Answers, besides those from 500 on, that an ordinary request would get, too."""


class Ranges:
    """Ranges of the objects of a bucket.

    Args:
        client: The connection.
        bucket: Its name.
        root: The prefix of the keys.
    """

    def __init__(self, client: Client, bucket: str, root: str) -> None:
        self.is_usable = True
        """Whether the store takes these requests; set by who makes an ordinary one instead."""
        self._client, self._bucket, self._root = client, bucket, root
        self._urls: OrderedDict[str, str] = OrderedDict()

    async def get(self, request: ReadRequest) -> tuple[bytes, str] | None:
        """Read a range of an object with a known etag.

        Returns:
            Its bytes, fewer where the object ends, and the ETag that the store states; None if an
            ordinary request is to be made.

        Raises:
            ClientError: The store's answer.
        """
        if not self.is_usable or request.etag is None or not request.length:
            return None
        last = request.offset + request.length - 1
        headers = {"Range": f"bytes={request.offset}-{last}", "If-Match": f'"{request.etag}"'}
        url = await self._url_of(request.key)
        status, etag, body = await self._client.get_signed(url, headers)
        if status == _PARTIAL:
            return body, etag
        if status in _TOLD or status >= 500:
            raise _error_of(status, body)
        return None

    async def _url_of(self, key: str) -> str:
        url = self._urls.get(key)
        if url is None:
            url = await self._client.url_of(self._bucket, self._root + key)
            self._urls[key] = url
            if len(self._urls) > URLS_KEPT:
                self._urls.popitem(last=False)
        return url


def _error_of(status: int, body: bytes) -> botocore.exceptions.ClientError:
    """What botocore raises for an answer."""
    code, message = None, None
    try:
        found = ET.fromstring(body)  # noqa: S314 - as botocore does: expat limits entities
        code, message = found.findtext("Code"), found.findtext("Message")
    except ET.ParseError:
        pass
    answer = {"Error": {"Code": code or str(status), "Message": message or ""}}
    return botocore.exceptions.ClientError(answer, "GetObject")
