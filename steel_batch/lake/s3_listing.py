"""Reads the pages of a listing, which botocore's own parser takes most of a listing's time for.

The client calls `read_page` with an answer before botocore parses it. Signatures, redirects, errors
and retries remain botocore's and ours, as for any other request.

Source: ListObjectsV2 in Amazon's S3 API Reference.
"""

from __future__ import annotations

import re
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
_OPEN: Final = b"<Contents>"
_CLOSE: Final = b"</Contents>"
_ROOT_TAG: Final = re.compile(
    rb"(?:<\?xml version=.1\.0.(?: encoding=.(?i:utf-8).)? ?\?>)?\s*<ListBucketResult[\s>]"
)
_ITEM: Final = r"<\w+>[^<]*</\w+>"
_OBJECT: Final = re.compile(
    rf"<Contents><Key>([^<&]*)</Key>(?:{_ITEM})*?"
    rf"<ETag>(?:&quot;)?([^<&]*)(?:&quot;)?</ETag>(?:{_ITEM})*?"
    rf"<Size>(\d+)</Size>(?:{_ITEM}|<Owner>(?:{_ITEM})*</Owner>)*</Contents>"
)


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
        found = _in_text(body) or _in_tree(body)
    except ET.ParseError:
        return  # botocore raises its own error
    if found is not None:
        customized_response_dict[READ], response_dict["body"] = found


Columns = tuple[list[Any], list[Any], list[Any], bool]
"""Keys, sizes and etags as they are written, and whether the keys are encoded as in URLs."""


def _in_text(body: bytes) -> tuple[Columns, bytes] | None:
    """The objects of a plain listing, and what is left of it; None if it must be parsed.

    Plain is what stores send: all objects in a row, each with key, etag and size in this order, and
    no comments, attributes or entities. A tree of such a page takes twice as long.
    """
    start, end = body.find(_OPEN), body.rfind(_CLOSE) + len(_CLOSE)
    rest = body[:start] + body[end:]
    is_plain = 0 <= start < end and _ROOT_TAG.match(body) and b"<!" not in rest
    num_objects = body.count(_OPEN)
    if not is_plain or b"\r" in body or body.count(_CLOSE + _OPEN) != num_objects - 1:
        return None
    try:
        found = _OBJECT.findall(body[start:end].decode())
    except UnicodeDecodeError:
        return None
    if len(found) != num_objects:
        return None
    keys, etags, sizes = map(list, zip(*found, strict=True))
    return (keys, sizes, etags, b"<EncodingType>url</EncodingType>" in rest), rest


def _in_tree(body: bytes) -> tuple[Columns, bytes] | None:
    """The objects of any listing, and what is left of it; None if it is none.

    Raises:
        ET.ParseError: It is not well formed.
    """
    root = ET.fromstring(body)  # noqa: S314 - as botocore does: expat limits entities
    space, _, kind = root.tag.rpartition("}")
    if kind != _ROOT:
        return None
    space += "}" if space else ""
    is_encoded = root.findtext(f"{space}EncodingType") == "url"
    names = [f"{space}{name}" for name in ("Key", "Size", "ETag")]
    found = root.findall(f"{space}Contents")
    keys, sizes, etags = ([item.findtext(name) for item in found] for name in names)
    root[:] = [item for item in root if item.tag != f"{space}Contents"]
    return (keys, sizes, etags, is_encoded), ET.tostring(root)


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


def _parsed(answer: dict[str, Any]) -> Columns:
    """The same from an answer that botocore has parsed itself."""
    found = answer.get("Contents", ())
    keys, sizes, etags = ([item.get(name) for item in found] for name in ("Key", "Size", "ETag"))
    return keys, sizes, etags, False
