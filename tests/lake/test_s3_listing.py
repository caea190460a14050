"""Pages of listings that botocore does not parse."""

from __future__ import annotations

from typing import Any

import pytest

from steel_batch.errors import LakeError
from steel_batch.lake.s3_listing import page_of, read_page

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
