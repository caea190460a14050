"""Dates that end together commit to the same three logs at once, and none loses anything."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.lake.probe import writable
from steel_batch.runs.record import RunRecord
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import ensure_tables, landed, open_table
from steel_batch.tables.verify import verify
from tests.conftest import new_bucket
from tests.made_up_run import begin, finish, image_keys, merge, score_shards

pytestmark = pytest.mark.s3
NUM_IMAGES = 4
SERVERS = {
    "s3": "s3_endpoint",
    "ceph": "ceph_endpoint",
    "ignoring": "ignoring_endpoint",
    "late": "late_endpoint",
}


@pytest.fixture(params=["s3", pytest.param("ceph", marks=pytest.mark.ceph), "ignoring", "late"])
def endpoint(request: pytest.FixtureRequest) -> str:
    """Of servers that decide between two writers, and of those that do not."""
    return str(request.getfixturevalue(SERVERS[request.param]))


def prepared(store: Lake, date: str) -> tuple[RunRecord, list[DataFile]]:
    record = begin(store, image_keys(NUM_IMAGES), date=date)
    score_shards(store, record, bad=image_keys(1))
    return record, merge(store, record)


def commit_at_once(endpoint: str, num_dates: int) -> None:
    """One round: as many dates are scored, then all commit at once."""
    url = f"{new_bucket(endpoint)}/store"

    def opened() -> Lake:
        # Where it does not decide, by the word of who gives the command.
        return writable(Lake(url, endpoint_url=endpoint), single_writer=True)

    ensure_tables(opened())
    dates = [f"2026-11-{day:02d}" for day in range(1, num_dates + 1)]
    runs = [prepared(opened(), date) for date in dates]
    start = threading.Barrier(num_dates)

    def commit(run: tuple[RunRecord, list[DataFile]]) -> None:
        start.wait()
        finish(opened(), *run)

    with ThreadPoolExecutor(num_dates) as pool:
        list(pool.map(commit, runs))
    store = opened()
    for record, _ in runs:
        assert all(landed(store, table, record.run_id) for table in layout.TABLES), record.run_id
    for table, num in (("predictions", NUM_IMAGES - 1), ("quarantine", 1)):
        found = run_query(store, f"SELECT date, count(*) AS n FROM {table} GROUP BY 1 ORDER BY 1")
        assert [(str(row["date"]), row["n"]) for row in found.to_pylist()] == [
            (date, num) for date in dates
        ]
    assert list(verify(store)) == []
    assert [open_table(store, table).version() for table in layout.TABLES] == [num_dates] * 3


@pytest.mark.quick("s3", "ignoring")  # a server that decides, and one that never does
def test_three_dates_that_end_together_all_commit(endpoint: str) -> None:
    commit_at_once(endpoint, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_dates", [2, 4, 8])
def test_dates_that_end_together_all_commit_in_each_of_twenty_rounds(
    endpoint: str, num_dates: int
) -> None:
    for _ in range(20):
        commit_at_once(endpoint, num_dates)
