"""Uploads in parts that fail, or that nobody completes."""

from __future__ import annotations

import boto3
import pytest

from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from tests.fault_proxy import FaultProxy, Faults
from tests.lake.s3_lakes import MIB, RETRY, contents, hasty_retry, parted

pytestmark = pytest.mark.s3


def test_an_upload_whose_completion_is_never_answered_is_known_by_its_mark(
    direct: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=1.0, kinds=("reset_after",), only="POST .*uploadId="))
    hasty = Lake(direct.url, endpoint_url=proxy.url, retry=hasty_retry(1.0))
    data = bytes(6 * MIB)
    with parted(hasty).open_output("large") as stream:
        stream.write(data)
    assert direct.read("large") == data


def test_an_upload_that_fails_leaves_neither_an_object_nor_parts(
    direct: Lake, bucket: str, s3_endpoint: str
) -> None:
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)

    def fail() -> None:
        with parted(direct).open_output("large") as stream:
            stream.write(bytes(6 * MIB))
            assert len(s3.list_multipart_uploads(Bucket=bucket[5:])["Uploads"]) == 1
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket[5:])
    assert contents(direct) == {}


def test_uploads_that_nobody_completed_are_swept_once_they_are_old(
    direct: Lake, bucket: str, s3_endpoint: str
) -> None:
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    for key in ("lake/a/left", "elsewhere/left"):
        upload = s3.create_multipart_upload(Bucket=bucket[5:], Key=key)["UploadId"]
        s3.upload_part(Bucket=bucket[5:], Key=key, UploadId=upload, PartNumber=1, Body=b"12345")
    direct.write("a/whole", b"x")
    century = 100 * 365 * 24 * 3600.0  # to this server, every upload was begun in 2010
    assert direct.sweep(century) == []
    (found,) = direct.sweep(0.0, dry_run=True)
    assert (found.key, found.size_bytes) == ("a/left", 5)
    assert direct.sweep(0.0) == [found]
    assert direct.sweep(0.0) == []
    (left,) = s3.list_multipart_uploads(Bucket=bucket[5:])["Uploads"]
    assert left["Key"] == "elsewhere/left", "only what is below the lake's root"
    assert contents(direct) == {"a/whole": b"x"}


def test_a_store_that_lists_no_uploads_is_swept_of_nothing_and_says_so_once(
    direct: Lake, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = Lake(f"{direct.url}/fresh", endpoint_url=proxy.url, retry=RETRY)
    proxy.set(Faults(share=1.0, kinds=("not_implemented",), only=r"GET .*[?&]uploads"))
    assert fresh.sweep(0.0, dry_run=True) == fresh.sweep(0.0) == []
    (message,) = caplog.messages
    assert "does not list them (listing uploads to s3://" in message
    assert "the store answers NotImplemented" in message
    proxy.set(Faults(share=1.0, kinds=("not_implemented",), only="GET"))
    with pytest.raises(LakeError, match="NotImplemented"):
        list(fresh.list_objects())
