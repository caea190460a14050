"""How lakes on S3 try again and upload in the tests, and what they hold."""

from __future__ import annotations

import dataclasses

from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.lake.s3 import Bucket

RETRY = Retry(base_seconds=0.01, max_seconds=0.1, total_seconds=60.0, answer_seconds=10.0)
MIB = 1 << 20


def parted(lake: Lake) -> Bucket:
    """The same lake, that uploads and copies in parts of the least size that S3 takes."""
    return Bucket(lake.url, lake.endpoint_url, lake.retry, part_bytes=5 * MIB, copy_bytes=5 * MIB)


def hasty_retry(total_seconds: float) -> Retry:
    """Gives up after so long."""
    return dataclasses.replace(RETRY, total_seconds=total_seconds)


def contents(lake: Lake) -> dict[str, bytes]:
    return {item.key: lake.read(item.key) for item in lake.list_objects()}
