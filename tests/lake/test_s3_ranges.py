"""Ranges that are read past botocore are those that botocore reads, whatever the store answers."""

from __future__ import annotations

import random

import pytest

from steel_batch.errors import ChangedObjectError, LakeError, MissingObjectError
from steel_batch.lake import Lake, ReadRequest
from tests.conftest import new_bucket
from tests.fault_proxy import FaultProxy, Faults

pytestmark = pytest.mark.s3

DATA = random.Random(7).randbytes(50_000)


def etag_of(lake: Lake, key: str) -> str:
    found = lake.stat(key)
    assert found is not None
    return found.etag


def ranges(lake: Lake, key: str) -> list[ReadRequest]:
    etag = etag_of(lake, key)
    return [
        ReadRequest(key=key, offset=offset, length=700, etag=etag)
        for offset in range(0, len(DATA) - 700, 977)
    ]


def wanted(requests: list[ReadRequest]) -> list[bytes]:
    return [DATA[r.offset : r.offset + (r.length or 0)] for r in requests]


@pytest.mark.parametrize("key", ["k", "a b/c+d.tar", "größe/%41&=?#;,.tar", "~(1)'*!.tar"])
@pytest.mark.parametrize(
    "store", ["s3_endpoint", pytest.param("ceph_endpoint", marks=pytest.mark.ceph)]
)
def test_ranges_are_those_of_the_object_whatever_its_key(
    key: str, store: str, request: pytest.FixtureRequest
) -> None:
    """Ceph compares signatures."""
    endpoint = request.getfixturevalue(store)
    lake = Lake(f"{new_bucket(endpoint)}/lake", endpoint_url=endpoint)
    lake.write(key, DATA)
    requests = ranges(lake, key)
    before = lake.counts()["requests"]
    assert lake.read_many(requests) == wanted(requests)
    assert lake.counts()["requests"] - before == len(requests)
    assert lake._backend._ranges.is_usable  # type: ignore[attr-defined]


def test_a_range_is_one_request(faulty: Lake, proxy: FaultProxy) -> None:
    faulty.write("k", DATA)
    requests = ranges(faulty, "k")
    proxy.set(Faults())
    assert faulty.read_many(requests) == wanted(requests)
    assert proxy.counts()["requests"] == len(requests)


@pytest.mark.parametrize(
    "kind",
    ["slow_down", "internal_error", "reset_after", "short_body", "access_denied", "expired_token"],
)
def test_ranges_are_read_again_after_what_passes(
    kind: str, faulty: Lake, proxy: FaultProxy
) -> None:
    faulty.write("k", DATA)
    requests = ranges(faulty, "k")
    proxy.set(Faults(share=0.2, kinds=(kind,), only="GET .*/k"))
    assert faulty.read_many(requests) == wanted(requests)
    assert proxy.counts()[kind] > 3


def test_a_range_of_another_object_is_refused(faulty: Lake) -> None:
    faulty.write("k", DATA)
    (request, *_) = ranges(faulty, "k")
    beyond = ReadRequest(key="k", offset=len(DATA) - 10, length=20, etag=request.etag)
    with_none = ReadRequest(key="none", offset=0, length=20, etag=request.etag)
    found = faulty.read_many([beyond, with_none])
    assert [type(each) for each in found] == [ChangedObjectError, MissingObjectError]
    faulty.write("k", DATA[::-1])
    (changed,) = faulty.read_many([request])
    assert isinstance(changed, ChangedObjectError)
    assert "was replaced" in changed.message


@pytest.mark.parametrize("length", [700, None])
def test_an_object_that_was_replaced_is_noticed_on_a_store_that_ignores_conditions(
    length: int | None, ignoring_endpoint: str
) -> None:
    """A range, and an object as a whole: the answer states another etag."""
    lake = Lake(new_bucket(ignoring_endpoint), endpoint_url=ignoring_endpoint)
    lake.write("k", DATA)
    request = ReadRequest(key="k", offset=0, length=length, etag=etag_of(lake, "k"))
    assert lake.read_many([request]) == [DATA[:length]]
    lake.write("k", DATA[::-1])
    (changed,) = lake.read_many([request])
    assert isinstance(changed, ChangedObjectError)
    assert "was replaced: its etag has changed" in changed.message


def test_a_store_that_takes_only_ordinary_requests_is_asked_by_those(
    faulty: Lake, proxy: FaultProxy
) -> None:
    faulty.write("k", DATA)
    requests = ranges(faulty, "k")
    proxy.set(Faults(refuses_others=True))
    assert faulty.read_many(requests) == wanted(requests)
    proxy.set(Faults(refuses_others=True))
    assert faulty.read_many(requests) == wanted(requests)
    assert proxy.counts()["requests"] == len(requests), "it is not tried again"


def test_a_store_that_refuses_everything_is_named_without_a_signature(
    faulty: Lake, proxy: FaultProxy
) -> None:
    faulty.write("k", DATA)
    (request, *_) = ranges(faulty, "k")
    proxy.set(Faults(share=1.0, kinds=("access_denied",)))
    (found,) = faulty.read_many([request])
    assert isinstance(found, LakeError)
    assert "AccessDenied" in found.message
    assert "Signature" not in found.message
