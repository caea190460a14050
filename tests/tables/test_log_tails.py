"""What a process leaves of the logs for the next one saves requests, and decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.tables.log_mirror import LogMirror, log_mirror
from steel_batch.tables.log_tails import MAX_ENTRY_BYTES, Tail, save_tails
from steel_batch.tables.table_log import CHECKPOINT_EVERY, SCHEMAS, all_live_files, leave_tails
from tests.conftest import new_bucket
from tests.fault_proxy import FaultProxy, Faults
from tests.made_up_run import ENGINE, commit_run, image_keys

pytestmark = pytest.mark.s3

TABLE = layout.PREDICTIONS
LOG = f"{TABLE}/_delta_log/"
NUM_COMMITS = CHECKPOINT_EVERY + 4


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A store with a checkpoint and some commits since then."""
    folder = Lake(str(tmp_path_factory.mktemp("stores")))
    for day in range(1, NUM_COMMITS + 1):
        commit_run(folder, image_keys(2), date=f"2020-01-{day:02d}")
    return folder


def copy_of(grown: Lake, s3_endpoint: str) -> Lake:
    bucket = Lake(f"{new_bucket(s3_endpoint)}/store", endpoint_url=s3_endpoint)
    for item in grown.list_objects():
        bucket.write(item.key, grown.read(item.key))
    return bucket


@pytest.fixture
def direct(grown: Lake, s3_endpoint: str) -> Lake:
    """A copy of it in a bucket."""
    return copy_of(grown, s3_endpoint)


@pytest.fixture(scope="module")
def shared(grown: Lake, s3_endpoint: str) -> Lake:
    """The same for tests that change nothing but what was left of its logs."""
    return copy_of(grown, s3_endpoint)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


def look(direct: Lake, proxy: FaultProxy) -> tuple[DeltaTable, int]:
    """The table as a process finds it that has no copy, and its requests."""
    proxy.set(Faults())
    opened = LogMirror(TABLE).look(Lake(direct.url, endpoint_url=proxy.url))
    assert opened is not None
    return opened, proxy.counts()["requests"]


def test_the_entries_since_a_checkpoint_take_one_request(direct: Lake, proxy: FaultProxy) -> None:
    opened, num_requests = look(direct, proxy)
    assert opened.version() == NUM_COMMITS
    assert len(opened.file_uris()) == NUM_COMMITS
    assert num_requests == 3, "what was left, the listing, the checkpoint"


def test_an_entry_of_another_writer_is_read_and_one_that_was_replaced_is_not_taken_from_there(
    direct: Lake, proxy: FaultProxy
) -> None:
    run = layout.run_id(ENGINE, f"2020-01-{NUM_COMMITS:02d}", 1)
    entry = f"{LOG}{NUM_COMMITS:020d}.json"
    direct.write(entry, direct.read(entry).replace(b'"appId":"', b'"appId":"not-'))
    theirs = CommitProperties(app_transactions=[Transaction("another", 1)])
    DeltaTable(
        direct.uri(TABLE), storage_options=direct.storage_options()
    ).create_write_transaction(
        [], "append", SCHEMAS[TABLE], partition_by=["engine", "date"], commit_properties=theirs
    )
    opened, num_requests = look(direct, proxy)
    assert opened.version() == NUM_COMMITS + 1
    assert opened.transaction_version("another") == 1
    assert opened.transaction_version(f"not-{run}") == 1
    assert opened.transaction_version(run) is None
    assert num_requests == 3 + 2


@pytest.mark.parametrize(
    "left",
    [
        None,
        b"",
        b"\xff",
        b"[]",
        b"[1]",
        b'{"predictions": 3}',
        b'{"predictions": {"checkpoint": "ten"}}',
        b'{"predictions": {"checkpoint": 10, "entries": {"x": 1}}}',
        b'{"predictions": {"checkpoint": 7}}',
        b'{"predictions": {"checkpoint": 999}}',
        b'{"predictions": {"checkpoint": -5, "entries": {"../../x": "y"}}}',
        b'{"predictions": {"entries": {"00000000000000000014.json": "{}"}}}',
        b'{"predictions": {"checkpoint": 10, "is": "of another build"}}',
        b"[" * 100_000,
    ],
)
def test_a_log_is_read_as_ever_if_what_was_left_is_of_no_use(
    left: bytes | None, shared: Lake, proxy: FaultProxy
) -> None:
    shared.delete([layout.LOG_TAILS])
    if left is not None:
        shared.write(layout.LOG_TAILS, left)
    opened, _ = look(shared, proxy)
    expected = DeltaTable(shared.uri(TABLE), storage_options=shared.storage_options())
    assert opened.version() == expected.version() == NUM_COMMITS
    names = [{Path(uri).name for uri in each.file_uris()} for each in (opened, expected)]
    assert names[0] == names[1]
    assert len(names[0]) == NUM_COMMITS


def test_a_large_entry_is_left_out(shared: Lake) -> None:
    large, small = "x" * (MAX_ENTRY_BYTES + 1), "x" * MAX_ENTRY_BYTES
    save_tails(shared, {TABLE: Tail(checkpoint=3, entries={"large": large, "small": small})})
    left = json.loads(shared.read(layout.LOG_TAILS))
    assert left == {TABLE: {"checkpoint": 3, "entries": {"small": small}}}


def test_what_is_left_is_what_was_last_looked_at(grown: Lake) -> None:
    all_live_files(grown, TABLE)
    leave_tails(grown)
    left = json.loads(grown.read(layout.LOG_TAILS))[TABLE]
    assert left["checkpoint"] == CHECKPOINT_EVERY
    assert sorted(left["entries"]) == [
        f"{version:020d}.json" for version in range(CHECKPOINT_EVERY + 1, NUM_COMMITS + 1)
    ]
    for name, text in left["entries"].items():
        assert text.encode() == grown.read(f"{LOG}{name}")
    assert log_mirror(grown, TABLE).tail().entries == left["entries"]
