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
NUM_REQUESTS = 52
NUM_OWN = 3
"""Of `tests.made_up_run.merge`."""
NUM_CHECKS = 3
"""The lock is checked once a second, at most so often in a date of one shard."""


def copied_to_bucket(folder: Lake, endpoint: str) -> Lake:
    bucket = Lake(f"{new_bucket(endpoint)}/store", endpoint_url=endpoint)
    for item in folder.list_objects():
        bucket.write(item.key, folder.read(item.key))
    return bucket


def test_a_small_new_date_takes_less_than_sixty_requests_whatever_the_number_of_commits(
    tmp_path: Path, tiny_engine: Path, s3_endpoint: str
) -> None:
    """In a process that knows nothing of the store. A checkpoint is due at most for one table."""
    images = Lake(str(tmp_path / "images"))
    fill_lake(images, num_images=4)
    grown = Lake(str(tmp_path / "store"))
    found, num_commits = {}, 0
    with FaultProxy(s3_endpoint) as proxy:
        for wanted in (CHECKPOINT_EVERY + 3, 2 * CHECKPOINT_EVERY - 1):
            while num_commits < wanted:
                num_commits += 1
                date = str(DAY_0 + datetime.timedelta(days=num_commits))
                commit_run(grown, image_keys(2), date=date)
            direct = copied_to_bucket(grown, s3_endpoint)
            store = Lake(direct.url, endpoint_url=proxy.url)
            proxy.set(Faults())
            score_here(score_config(images, store, tiny_engine, lease_seconds=600.0))
            found[wanted] = proxy.counts()["requests"] - NUM_OWN
    for wanted, num_requests in found.items():
        num_expected = NUM_REQUESTS + 2 * (wanted == 2 * CHECKPOINT_EVERY - 1)  # a checkpoint
        assert num_expected <= num_requests <= num_expected + NUM_CHECKS < 60, found
