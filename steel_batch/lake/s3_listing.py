"""Reads the pages of a listing, which botocore's own parser takes most of a listing's time for.

The client calls `read_page` with an answer before botocore parses it. Signatures, redirects, errors
and retries remain botocore's and ours, as for any other request.

Source: ListObjectsV2 in Amazon's S3 API Reference.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, Final
from urllib.parse import unquote_plus

from steel_batch.errors import LakeError
from steel_batch.lake.contract import ListedPage

EVENT: Final = "before-parse.*.ListObjectsV2"
"""The wildcard puts it before botocore's search for errors, which parses each answer, too."""
READ: Final = "ListedPage"
"""The key of the page in botocore's answer."""
_ROOT: Final = "ListBucketResult"


def read_page(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_others: object
) -> None:
    """Take the objects out of an answer's body, so that botocore parses only what is left.

    What is not a listing, such as an error, is left to botocore.
    """
    body = response_dict["body"]
    if response_dict["status_code"] >= 300:
        return
    try:
        root = ET.fromstring(body)  # noqa: S314 - as botocore does: expat limits entities
    except ET.ParseError:
        return  # botocore raises its own error
    space, _, kind = root.tag.rpartition("}")
    if kind != _ROOT:
        return
    space += "}" if space else ""
    is_encoded = root.findtext(f"{space}EncodingType") == "url"
    names = [f"{space}{name}" for name in ("Key", "Size", "ETag")]
    found = root.findall(f"{space}Contents")
    keys, sizes, etags = ([item.findtext(name) for item in found] for name in names)
    customized_response_dict[READ] = keys, sizes, etags, is_encoded
    root[:] = [item for item in root if item.tag != f"{space}Contents"]
    response_dict["body"] = ET.tostring(root)


def page_of(answer: dict[str, Any], root: str, what: str) -> ListedPage:
    """The objects of an answer, without folder markers.

    Args:
        answer: What botocore returns for ListObjectsV2.
        root: The prefix of the lake's root, which keys are relative to.
        what: Description of the request, for messages.

    Raises:
        LakeError: An object has no key, or no size.
    """
    keys, sizes, etags, is_encoded = answer.get(READ) or _parsed(answer)
    start = len(root)
    try:
        keys = _decoded(keys) if is_encoded else keys
        objects = [i for i, key in enumerate(keys) if not key.endswith("/")]
        if len(objects) < len(keys):
            keys, sizes, etags = ([column[i] for i in objects] for column in (keys, sizes, etags))
        return ListedPage(
            keys=[key[start:] for key in keys],
            sizes_bytes=[int(size) for size in sizes],
            etags=[(etag or "").strip('"') for etag in etags],
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise LakeError(
            f"{what}: the store's answer has an object without a key or a size ({error})."
        ) from error


def _decoded(keys: list[str]) -> list[str]:
    """Decode the keys of a page: together, unless one contains a line's end."""
    found = unquote_plus("\n".join(keys)).split("\n")
    return found if len(found) == len(keys) else [unquote_plus(key) for key in keys]


def _parsed(answer: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any], bool]:
    """The same from an answer that botocore has parsed itself."""
    found = answer.get("Contents", ())
    keys, sizes, etags = ([item.get(name) for item in found] for name in ("Key", "Size", "ETag"))
    return keys, sizes, etags, False
