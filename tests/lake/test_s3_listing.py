"""Pages of listings that botocore does not parse."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.errors import LakeError
from steel_batch.lake.s3_listing import READ, page_of, read_page
from tests.conftest import examples

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
    with pytest.raises(LakeError, match=r"s3://b/: .* without a key or a size .*Check that"):
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


@st.composite
def a_page(draw: st.DrawFn) -> bytes:
    objects = draw(st.lists(an_object(), max_size=5))
    between = draw(st.sampled_from(["", "", "", "\n", "<Delimiter>/</Delimiter>"]))
    earlier = [
        "<EncodingType>url</EncodingType>",
        "",
        "<!-- <Contents> -->",
        "<Prefix>&amp;</Prefix>",
    ]
    before = draw(st.sampled_from(earlier))
    after = draw(st.sampled_from(["", "<!-- </Contents> -->", "<MaxKeys>1000</MaxKeys>"]))
    heads = [
        '<?xml version="1.0" encoding="UTF-8"?>\n', "", "<?xml version='1.0'?>",
        '<?xml version="1.0" encoding="ISO-8859-1"?>',
    ]  # fmt: skip
    head, space = draw(st.sampled_from(heads)), draw(st.sampled_from([SPACE, ""]))
    text = (
        f"{head}<ListBucketResult{space}>{before}{between.join(objects)}{after}</ListBucketResult>"
    )
    return text.encode("latin-1" if "8859" in head else "utf-8")


def is_read_as_a_parser_reads_it(body: bytes) -> bool:
    """Compare what is read of a page with its tree; return whether it is a listing."""
    response, answer = listed(body)
    try:
        root = ET.fromstring(body)  # noqa: S314 - our own
    except ET.ParseError:
        root = ET.Element("none")
    space = root.tag.removesuffix("ListBucketResult")
    if space not in ("", *re.findall(r"{.*}", root.tag)) or space == root.tag:
        assert (response["body"], answer) == (body, {}), "it is left to botocore"
        return False
    found = root.findall(f"{space}Contents")
    keys, sizes, etags, is_encoded = answer[READ]
    texts = {name: [o.findtext(f"{space}{name}") for o in found] for name in ("Key", "Size")}
    assert {"Key": keys, "Size": sizes} == texts
    assert [etag and etag.strip('"') for etag in etags] == [
        etag and etag.strip('"') for etag in (o.findtext(f"{space}ETag") for o in found)
    ]
    assert is_encoded == (root.findtext(f"{space}EncodingType") == "url")
    left = ET.fromstring(response["body"])  # noqa: S314 - our own
    assert [item.tag for item in left] == [item.tag for item in root if item not in found]
    return True


@given(body=a_page())
def test_a_page_is_read_as_a_parser_reads_it(body: bytes) -> None:
    assert is_read_as_a_parser_reads_it(body)


PIECES = (
    *(f"<{slash}{name}>" for name in ("Contents", "Key", "ETag", "Size", "Owner", "A")
      for slash in ("", "/")),
    *("<Contents />", "<Contents a=''>", "<x:Contents xmlns:x='s'/>", "<X>", "</X>", "<Key/>"),
    *("<!--", "-->", "<![CDATA[", "]]>", "<?p", "?>", "<!DOCTYPE a [<!ENTITY b 'c'>]>"),
    *("&b;", "&amp;", "&#0;", "&", "<", ">", "'", '"', "\x00", "\x1f", "\ufffe", "\r"),
    *("-1", "+1", "1_0", " 1", "\u0661", "", "<EncodingType>url</EncodingType>"),
)  # fmt: skip


@settings(max_examples=examples(1500))
@given(data=st.data())
def test_a_page_that_is_no_longer_what_it_was_is_read_as_a_parser_reads_it_or_left_to_it(
    data: st.DataObject,
) -> None:
    """Tags, text and bytes are put into a page, taken out, doubled or moved."""
    body = data.draw(a_page() | st.just(PLAIN))
    for _ in range(data.draw(st.integers(1, 4))):
        ends = sorted({0, len(body), *(place.start() for place in re.finditer(rb"[<>]", body))})
        place, other = (data.draw(st.sampled_from(ends) | st.integers(0, len(body))) for _ in "ab")
        first, last = sorted((place, other))
        piece = data.draw(
            st.sampled_from(PIECES).map(str.encode)
            | st.binary(max_size=3)
            | st.just(body[first:last])
        )
        is_put = data.draw(st.booleans())
        body = body[:first] + piece + body[first if is_put else last :]
    is_read_as_a_parser_reads_it(body)


def objects(*inner: str) -> str:
    return "".join(f"<Contents>{text}</Contents>" for text in inner)


PLAIN = (
    "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><Name>b</Name>"
    + objects(*(f"<Key>{key}</Key><ETag>e</ETag><Size>1</Size><Type>N</Type>" for key in "abc"))
    + "<MaxKeys>1000</MaxKeys></ListBucketResult>"
).encode()
A = "<Key>a</Key><ETag>e</ETag><Size>1</Size>"


@pytest.mark.parametrize(
    "inner",
    [
        objects(A + "<A>b</C>"),
        objects(A + "<Type>&b;</Type>"),
        objects(A + "<Type>\x01</Type>"),
        objects("<Key>]]></Key><ETag>e</ETag><Size>1</Size>"),
        objects("<Key>\uffff</Key><ETag>e</ETag><Size>1</Size>"),
        objects(A, A) + "</Contents>",
        objects(A) + "</Contents>" + objects(A),
        f"<CommonPrefixes>{objects(A)}</CommonPrefixes>",
        f"<X>{objects(A)}</X><Contents />",
        f"<X>{objects(A)}</X><x:Contents xmlns:x='s'/>",
        objects(A) + "<Contents/>",
        objects(A) + "<Contents a='b'><Key>c</Key></Contents>",
        f"<?p {objects(A)}?>",
        f"<!-- {objects(A)} -->",
        f"<A b='{objects(A)}'/>",
    ],
)
def test_an_odd_page_is_not_half_read(inner: str) -> None:
    for space in ("", " xmlns='s'"):
        is_read_as_a_parser_reads_it(
            f"<ListBucketResult{space}>{inner}</ListBucketResult>".encode()
        )


@pytest.mark.parametrize("size", ["-1", "+1", "1_0", "\u0661", " 1", "", "0x1", "1.0", "9" * 19])
def test_a_size_that_is_no_number_of_bytes_is_an_error(size: str) -> None:
    body = (
        f"<ListBucketResult><Contents><Key>a</Key><Size>{size}</Size></Contents></ListBucketResult>"
    )
    with pytest.raises(LakeError, match="without a key or a size"):
        page_of(listed(body.encode())[1], "", "listing")


@pytest.mark.parametrize("key", ["", "a", "other/a", "roo", "root", "root/"])
def test_a_key_that_is_not_under_the_root_is_an_error(key: str) -> None:
    """Or its first characters would be cut off, whatever they are. A folder's marker is none."""
    contents = f"<Contents><Key>{key}</Key><Size>1</Size></Contents>"
    answer = listed(f"<ListBucketResult>{contents}</ListBucketResult>".encode())[1]
    if key.endswith("/"):
        assert page_of(answer, "root/", "listing").keys == []
        return
    with pytest.raises(LakeError, match=f"the key '{key}', which is not under 'root/'. Check that"):
        page_of(answer, "root/", "listing")


@pytest.mark.parametrize("cut", [1, 20, 60, 100])
def test_a_page_that_ends_early_is_left_to_botocore(cut: int) -> None:
    contents = "<Contents><Key>a</Key><ETag>e</ETag><Size>1</Size></Contents>" * 2
    body = f"<ListBucketResult>{contents}<MaxKeys>1000</MaxKeys></ListBucketResult>".encode()[:-cut]
    response, _ = listed(body)
    with pytest.raises(ET.ParseError):
        ET.fromstring(response["body"])  # noqa: S314 - our own
