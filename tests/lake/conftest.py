"""A lake on S3, directly and behind a proxy that injects faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steel_batch.lake import Lake
from tests.fault_proxy import FaultProxy, Faults
from tests.lake.s3_lakes import RETRY


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def direct(bucket: str, s3_endpoint: str) -> Lake:
    """The lake behind no proxy."""
    return Lake(f"{bucket}/lake", endpoint_url=s3_endpoint)


@pytest.fixture
def faulty(direct: Lake, proxy: FaultProxy) -> Lake:
    """The same one behind a proxy that does nothing yet."""
    proxy.set(Faults())
    return Lake(direct.url, endpoint_url=proxy.url, retry=RETRY)
