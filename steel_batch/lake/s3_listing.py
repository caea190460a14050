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
_CHECK: Final = (
    "Check that --endpoint-url is an S3 store, and what forwards requests to it: such an answer is "
    "a fault there, and nothing of it is used."
)
MOST_DIGITS: Final = 18
"""Of a size: 64 bits hold such numbers, and no object is nearly as large."""
_ROOT: Final = "ListBucketResult"
_OPEN: Final = b"<Contents>"
_CLOSE: Final = b"</Contents>"
_ROOT_TAG: Final = re.compile(
    rb"(?:<\?xml version=.1\.0.(?: encoding=.(?i:utf-8).)? ?\?>)?\s*<ListBucketResult[\s>]"
)
_TEXT: Final = r"[^<>&\x00-\x08\x0b-\x1f\ufffe\uffff]*"
"""What XML admits, without entities, and without the end of a CDATA section."""


def _any_of(*names: str) -> str:
    return "|".join(f"<{name}>{_TEXT}</{name}>" for name in names)


_MORE: Final = _any_of(
    "LastModified", "ChecksumAlgorithm", "ChecksumType", "StorageClass", "Type", "Generation",
    "MetaGeneration",
)  # fmt: skip
"""What Amazon S3, Ceph, MinIO and Google state besides, in elements without elements."""
_OBJECT: Final = re.compile(
    rf"<Contents><Key>({_TEXT})</Key>(?:{_MORE})*"
    rf"<ETag>(?:&quot;|&#34;)?({_TEXT})(?:&quot;|&#34;)?</ETag>(?:{_MORE})*"
    rf"<Size>([0-9]+)</Size>(?:{_MORE}|<Owner>(?:{_any_of('ID', 'DisplayName')})*</Owner>)*"
    "</Contents>"
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
        found = _read(body)
    except ET.ParseError:
        return  # botocore raises its own error
    if found is not None:
        customized_response_dict[READ], response_dict["body"] = found


Columns = tuple[list[Any], list[Any], list[Any]]
"""Keys, sizes and etags as they are written."""


def _read(body: bytes) -> tuple[tuple[Any, ...], bytes] | None:
    """The objects of a listing, and what is left of it; None if it is none.

    Returns:
        `Columns` and whether the keys are encoded as in URLs; the XML without the objects.

    Raises:
        ET.ParseError: It is not well formed.
    """
    start, end = body.find(_OPEN), body.rfind(_CLOSE) + len(_CLOSE)
    columns = _in_text(body, start, end)
    # With an empty object in the place of all, as they must be the root's own and no other's.
    short = body if columns is None else body[:start] + b"<Contents/>" + body[end:]
    root = ET.fromstring(short)  # noqa: S314 - as botocore does: expat limits entities
    if columns is not None and len(_objects(root)) != 1:
        columns, root = None, ET.fromstring(body)  # noqa: S314 - the same
    space, _, kind = root.tag.rpartition("}")
    if kind != _ROOT:
        return None
    space += "}" if space else ""
    is_encoded = root.findtext(f"{space}EncodingType") == "url"
    objects = _objects(root)
    names = [f"{space}{name}" for name in ("Key", "Size", "ETag")]
    keys, sizes, etags = columns or ([o.findtext(name) for o in objects] for name in names)
    root[:] = [item for item in root if item.tag != f"{space}Contents"]
    return (keys, sizes, etags, is_encoded), ET.tostring(root)


def _objects(root: ET.Element) -> list[ET.Element]:
    return root.findall(f"{root.tag.removesuffix(_ROOT)}Contents")


def _in_text(body: bytes, start: int, end: int) -> Columns | None:
    """The objects between two places, if it is a plain listing; None if it must be parsed.

    Plain is what stores send: all objects in a row, each with key, etag and size in this order, and
    no comments, attributes or entities. A tree of such a page takes twice as long.
    """
    num_objects, rest = body.count(_OPEN), body[:start] + body[end:]
    if (
        not 0 <= start < end
        or _ROOT_TAG.match(body) is None
        or any(odd in rest for odd in (b"<!", b"Contents"))
        or body.count(_CLOSE) != num_objects
        or body.count(_CLOSE + _OPEN) != num_objects - 1
    ):
        return None
    try:
        found = _OBJECT.findall(body[start:end].decode())
    except UnicodeDecodeError:
        return None
    if len(found) != num_objects:
        return None
    keys, etags, sizes = map(list, zip(*found, strict=True))
    return keys, sizes, etags


def page_of(answer: dict[str, Any], root: str, what: str) -> ListedPage:
    """The objects of an answer, without folder markers.

    Args:
        answer: What botocore returns for ListObjectsV2.
        root: The prefix of the lake's root, which keys are relative to.
        what: Description of the request, for messages.

    Raises:
        LakeError: An object has no key or no size, or is not under the root.
    """
    keys, sizes, etags, is_encoded = answer.get(READ) or _parsed(answer)
    start = len(root)
    try:
        keys = _decoded(keys) if is_encoded else keys
        objects = [i for i, key in enumerate(keys) if not key.endswith("/")]
        if len(objects) < len(keys):
            keys, sizes, etags = ([column[i] for i in objects] for column in (keys, sizes, etags))
        page = ListedPage(
            keys=[key[start:] for key in keys],
            sizes_bytes=_numbers(sizes),
            etags=[(etag or "").strip('"') for etag in etags],
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise LakeError(
            f"{what}: the store's answer has an object without a key or a size ({error}). {_CHECK}"
        ) from error
    other = next((key for key in keys if not key.startswith(root) or len(key) == start), None)
    if other is not None:
        raise LakeError(
            f"{what}: the store's answer has the key {other!r}, which is not under {root!r}. "
            f"{_CHECK}"
        )
    return page


def _numbers(sizes: list[Any]) -> list[int]:
    """Sizes in bytes.

    Raises:
        ValueError: One is no number of 64 bits, or written with more than digits.
    """
    for size in map(str, sizes):
        if not (size.isascii() and size.isdigit() and len(size) <= MOST_DIGITS):
            raise ValueError(f"a size of {size[:40]!r}")
    return [int(size) for size in sizes]


def _decoded(keys: list[str]) -> list[str]:
    """Decode the keys of a page: together, unless one contains a line's end."""
    found = unquote_plus("\n".join(keys)).split("\n")
    return found if len(found) == len(keys) else [unquote_plus(key) for key in keys]


def _parsed(answer: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any], bool]:
    """The same from an answer that botocore has parsed itself."""
    found = answer.get("Contents", ())
    keys, sizes, etags = ([item.get(name) for item in found] for name in ("Key", "Size", "ETag"))
    return keys, sizes, etags, False
