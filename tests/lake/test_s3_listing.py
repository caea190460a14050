"""Pages of listings that botocore does not parse."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.errors import LakeError
from steel_batch.lake.s3_listing import READ, page_of, read_page

SPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def listed(body: bytes, status: int = 200) -> tuple[dict[str, Any], dict[str, Any]]:
    response, answer = {"body": body, "status_code": status}, dict[str, Any]()
    read_page(response, answer)
    return response, answer


@pytest.mark.parametrize("space", [SPACE, ""])
def test_keys_sizes_and_etags_are_read_as_the_store_wrote_them(space: str) -> None:
    objects = [
        ("r/a%20b%2Bc.jpg", "5", "<ETag>&quot;e1&quot;</ETag>"), ("r/f/", "0", ""),
        ("r/%C3%A9&amp;.jpg", "70000", "<ETag>e2</ETag>"), ("r/n.jpg", "1", ""),
    ]  # fmt: skip
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size>{etag}</Contents>"
        for key, size, etag in objects
    )
    body = (
        f"<ListBucketResult{space}><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        f"{contents}<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    )
    response, answer = listed(body.encode())
    page = page_of(answer, "r/", "listing")
    assert page.keys == ["a b+c.jpg", "é&.jpg", "n.jpg"]
    assert (page.sizes_bytes, page.etags) == ([5, 70_000, 1], ["e1", "e2", ""])
    assert b"Contents" not in response["body"]
    assert b"NextContinuationToken" in response["body"]


def test_a_key_that_is_not_encoded_is_taken_as_it_is() -> None:
    body = (
        "<ListBucketResult><Contents><Key>a%20b+c</Key><Size>1</Size></Contents></ListBucketResult>"
    )
    assert page_of(listed(body.encode())[1], "", "listing").keys == ["a%20b+c"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<Error><Code>SlowDown</Code></Error>", 503),
        (b"<Error><Code>InternalError</Code></Error>", 200),
        (b"<ListBucketResult><Contents>", 200),
        (b"", 200),
    ],
)
def test_what_is_no_listing_is_left_to_botocore(body: bytes, status: int) -> None:
    response, answer = listed(body, status)
    assert (response["body"], answer) == (body, {})


def test_an_object_without_a_size_is_an_error_that_names_the_listing() -> None:
    body = b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"
    with pytest.raises(LakeError, match=r"listing s3://b/: .* without a key or a size"):
        page_of(listed(body)[1], "", "listing s3://b/")


LEAVES = ("<LastModified>2026-11-21T03:00:00.000Z</LastModified>", "<Type>Normal</Type>", "<A></A>")
ODD = (
    "<Owner><ID>me</ID><DisplayName>I</DisplayName></Owner>",
    "<Owner><Key>x</Key><Size>7</Size></Owner>",
    "<!-- <Key>no</Key> -->",
    "<Size>0</Size>",
    " \n",
    "<A b='c'>d</A>",
    "<E/>",
)
KEYS = st.text("ab/%2+\u00e9", min_size=1, max_size=8).map(lambda key: f"<Key>{key}</Key>")
ODD_KEYS = st.sampled_from(["<Key>a&amp;b</Key>", "<Key><![CDATA[a]]></Key>", "<Key>a\rb</Key>"])
ETAGS = st.sampled_from(
    [
        "<ETag>&quot;e&quot;</ETag>",
        '<ETag>"e-2"</ETag>',
        "<ETag></ETag>",
        "<ETag>a&amp;b</ETag>",
        "",
    ]
)
SIZES = st.integers(0, 1 << 40).map(lambda size: f"<Size>{size}</Size>")


@st.composite
def an_object(draw: st.DrawFn) -> str:
    is_plain = draw(st.integers(0, 9)) > 0
    more = st.lists(st.sampled_from(LEAVES if is_plain else LEAVES + ODD), max_size=2).map("".join)
    parts = [draw(KEYS if is_plain else KEYS | ODD_KEYS), draw(ETAGS), draw(SIZES)]
    if not is_plain:
        parts = draw(st.permutations(parts))
    inner = "".join(part + draw(more) for part in parts)
    return f"<Contents>{inner}</Contents>"


@given(
    objects=st.lists(an_object(), max_size=5),
    between=st.sampled_from(["", "", "", "\n", "<Delimiter>/</Delimiter>"]),
    before=st.sampled_from(
        ["<EncodingType>url</EncodingType>", "", "<!-- <Contents> -->", "<Prefix>&amp;</Prefix>"]
    ),
    after=st.sampled_from(["", "<!-- </Contents> -->", "<MaxKeys>1000</MaxKeys>"]),
    head=st.sampled_from(
        ['<?xml version="1.0" encoding="UTF-8"?>\n', "", "<?xml version='1.0'?>",
         '<?xml version="1.0" encoding="ISO-8859-1"?>']
    ),
    space=st.sampled_from([SPACE, ""]),
)  # fmt: skip
def test_a_page_is_read_as_a_parser_reads_it(
    objects: list[str], between: str, before: str, after: str, head: str, space: str
) -> None:
    text = (
        f"{head}<ListBucketResult{space}>{before}{between.join(objects)}{after}</ListBucketResult>"
    )
    body = text.encode("latin-1" if "8859" in head else "utf-8")
    response, answer = listed(body)
    root = ET.fromstring(body)  # noqa: S314 - our own
    found = [item for item in root if item.tag.endswith("Contents")]

    def texts(name: str) -> list[str | None]:
        tag = "{http://s3.amazonaws.com/doc/2006-03-01/}" if space else ""
        return [item.findtext(f"{tag}{name}") for item in found]

    keys, sizes, etags, is_encoded = answer[READ]
    assert (keys, sizes) == (texts("Key"), texts("Size"))
    assert [etag and etag.strip('"') for etag in etags] == [
        etag and etag.strip('"') for etag in texts("ETag")
    ]
    assert is_encoded == ("EncodingType" in before)
    left = ET.fromstring(response["body"])  # noqa: S314 - our own
    assert [item.tag for item in left] == [item.tag for item in root if item not in found]


@pytest.mark.parametrize("cut", [1, 20, 60, 100])
def test_a_page_that_ends_early_is_left_to_botocore(cut: int) -> None:
    contents = "<Contents><Key>a</Key><ETag>e</ETag><Size>1</Size></Contents>" * 2
    body = f"<ListBucketResult>{contents}<MaxKeys>1000</MaxKeys></ListBucketResult>".encode()[:-cut]
    response, _ = listed(body)
    with pytest.raises(ET.ParseError):
        ET.fromstring(response["body"])  # noqa: S314 - our own
