"""What a small date costs: a store far away answers a request after some 30 ms."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.tables.table_log import CHECKPOINT_EVERY
from tests.conftest import fill_lake, new_bucket, score_config
from tests.fault_proxy import FaultProxy, Faults
from tests.made_up_run import commit_run, image_keys
from tests.score_here import score_here

pytestmark = pytest.mark.s3

DAY_0 = datetime.date(2020, 1, 1)
NUM_REQUESTS = 59
NUM_OWN = 3
"""Of `tests.made_up_run.merge`."""
NUM_CHECKS = 3
"""The lock is checked once a second, at most so often in a date of one shard."""


def copied_to_bucket(folder: Lake, endpoint: str) -> Lake:
    bucket = Lake(f"{new_bucket(endpoint)}/store", endpoint_url=endpoint)
    for item in folder.list_objects():
        bucket.write(item.key, folder.read(item.key))
    return bucket


def test_a_small_new_date_takes_some_sixty_requests_whatever_the_number_of_commits(
    tmp_path: Path, tiny_engine: Path, s3_endpoint: str
) -> None:
    """Of a store with any number of commits, in a process that knows nothing of it."""
    images = Lake(str(tmp_path / "images"))
    fill_lake(images, num_images=4)
    grown = Lake(str(tmp_path / "store"))
    since = 3
    found, num_commits = [], 0
    with FaultProxy(s3_endpoint) as proxy:
        for wanted in (CHECKPOINT_EVERY, 2 * CHECKPOINT_EVERY, 2 * CHECKPOINT_EVERY + since):
            while num_commits < wanted:
                num_commits += 1
                date = str(DAY_0 + datetime.timedelta(days=num_commits))
                commit_run(grown, image_keys(2), date=date)
            direct = copied_to_bucket(grown, s3_endpoint)
            store = Lake(direct.url, endpoint_url=proxy.url)
            proxy.set(Faults())
            score_here(score_config(images, store, tiny_engine, lease_seconds=600.0))
            found.append(proxy.counts()["requests"] - NUM_OWN)
    few, more, later = found
    assert abs(few - more) <= NUM_CHECKS
    assert max(few, more) <= NUM_REQUESTS + NUM_CHECKS
    # an entry for each commit since the checkpoint, in two tables; the last one is always read
    assert abs(later - more - 2 * (since - 1)) <= NUM_CHECKS
