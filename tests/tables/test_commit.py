"""Commits: once, in all three tables, whatever becomes of the log's writes and other writers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.errors import (
    CommitConflictError,
    CommitUnknownError,
    LockHeldError,
    StaleChangeError,
)
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.runs.record import RunRecord
from steel_batch.tables.commit import land
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import all_live_files, landed, live_files, open_table
from tests.conftest import new_bucket
from tests.log_proxy import CONFLICT, LOSE_ANSWER, LOSE_REQUEST, LogProxy, log_proxy
from tests.made_up_run import (
    DATE,
    ENGINE,
    begin,
    commit_run,
    finish,
    image_keys,
    keys_of,
    merge,
    score_shards,
)
from tests.tables.merged_run import everything, image_keys_in, ready, rewrite_table, swept

PREDICTIONS = layout.PREDICTIONS


def test_a_landed_run_is_in_all_three_tables(lake: Lake) -> None:
    keys = image_keys(12)
    result = commit_run(lake, keys, bad=keys[:2])
    assert image_keys_in(lake) == sorted(keys[2:])
    assert image_keys_in(lake, "quarantine") == sorted(keys[:2])
    assert len(run_query(lake, "SELECT * FROM class_summaries")) == 2 * 4
    for table in layout.TABLES:
        assert landed(lake, table, str(result.run_id))
        (file,) = live_files(lake, table, ENGINE, DATE)
        assert file.key == layout.table_file(table, ENGINE, DATE, str(result.run_id), 0)
        found = lake.stat(file.key)
        assert found is not None
        assert found.size_bytes == file.size_bytes


def test_a_commit_repeated_under_one_run_id_lands_once_in_all_three_tables(lake: Lake) -> None:
    record = begin(lake, image_keys(8))
    score_shards(lake, record, bad=image_keys(1))
    files = merge(lake, record)
    finish(lake, record, files)
    seen = {table: everything(lake, table) for table in layout.TABLES}
    before = keys_of(lake, "predictions/") | keys_of(lake, "quarantine/")
    finish(lake, record, files)
    finish(Lake(lake.url, endpoint_url=lake.endpoint_url), record, files)
    assert {table: everything(lake, table) for table in layout.TABLES} == seen
    assert keys_of(lake, "predictions/") | keys_of(lake, "quarantine/") == before
    for table in layout.TABLES:
        assert open_table(lake, table).version() == 1


def test_of_four_writers_of_one_run_one_lands(lake: Lake) -> None:
    """What a lock that was lost unnoticed would bring about."""
    record, files = ready(lake)
    versions: list[int] = []

    def write() -> None:
        store = Lake(lake.url, endpoint_url=lake.endpoint_url)
        versions.append(land(store, PREDICTIONS, record.run_id, files))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [1, 1, 1, 1]
    assert image_keys_in(lake) == sorted(image_keys(8))


def test_runs_of_other_dates_land_beside_each_other(folder: Lake) -> None:
    dates = [f"2026-11-{day}" for day in range(10, 14)]
    runs = [ready(folder, 4, date=date) for date in dates]

    def write(record: RunRecord, files: list[DataFile]) -> None:
        land(Lake(folder.url, endpoint_url=folder.endpoint_url), PREDICTIONS, record.run_id, files)

    threads = [threading.Thread(target=write, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = run_query(folder, "SELECT date, count(*) AS n FROM predictions GROUP BY 1 ORDER BY 1")
    assert [(str(row["date"]), row["n"]) for row in found.to_pylist()] == [(d, 4) for d in dates]


def test_nothing_is_published_where_the_lock_is_lost(folder: Lake) -> None:
    record, files = ready(folder)

    def lost() -> None:
        raise LockHeldError("another run took it over.")

    with pytest.raises(LockHeldError):
        land(folder, PREDICTIONS, record.run_id, files, before=lost)
    assert not [key for key in keys_of(folder, "predictions/") if "part-" in key]


def test_nothing_is_committed_where_the_lock_is_lost_while_files_are_published(
    folder: Lake,
) -> None:
    record, files = ready(folder)

    def lost() -> None:
        if any("part-" in key for key in keys_of(folder, "predictions/")):
            raise LockHeldError("another run took it over.")

    with pytest.raises(LockHeldError):
        land(folder, PREDICTIONS, record.run_id, files, before=lost)
    assert not landed(folder, PREDICTIONS, record.run_id)
    assert all_live_files(folder, PREDICTIONS) == []
    assert image_keys_in(folder) == []


def test_a_commit_that_surely_failed_deletes_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """Its run may have lost the lock since, and the next holder may be committing the same."""
    store = Lake(str(tmp_path))
    record, files = ready(store)
    # No writer can put an entry that is a folder: to each try it looks like another who was first.
    taken = tmp_path / "predictions/_delta_log/00000000000000000001.json"
    taken.mkdir()
    with pytest.raises(CommitConflictError, match=r"2 times; .* run the same command again"):
        land(store, PREDICTIONS, record.run_id, files, attempts=2)
    assert all(store.stat(key) for file in files for key in (file.merged, file.target))
    taken.rmdir()
    assert image_keys_in(store) == []
    assert swept(store) == [file.target for file in files]
    assert land(store, PREDICTIONS, record.run_id, files) == 1
    assert image_keys_in(store) == sorted(image_keys(8))


@pytest.fixture
def behind(s3_endpoint: str, bucket: str) -> Iterator[tuple[Lake, LogProxy]]:
    """A store on S3 whose log's writes can go wrong."""
    with log_proxy(s3_endpoint) as (proxy, url):
        yield Lake(f"{bucket}/store", endpoint_url=url, retry=Retry(total_seconds=0.4)), proxy


@pytest.mark.s3
def test_a_commit_whose_answer_was_lost_landed_once(behind: tuple[Lake, LogProxy]) -> None:
    store, proxy = behind
    record, files = ready(store)
    proxy.num_writes, proxy.faults = 0, [LOSE_ANSWER, "pass"]
    assert land(store, PREDICTIONS, record.run_id, files) == 1
    assert proxy.num_writes >= 1
    assert image_keys_in(store) == sorted(image_keys(8))
    assert land(store, PREDICTIONS, record.run_id, files) == 1


@pytest.mark.s3
@pytest.mark.parametrize(
    "faults", [[LOSE_REQUEST], [LOSE_REQUEST, CONFLICT]], ids=["always lost", "lost once"]
)
def test_unknown_commit_deletes_nothing(behind: tuple[Lake, LogProxy], faults: list[str]) -> None:
    """A write that nobody answered may still arrive, whatever became of those after it."""
    store, proxy = behind
    record, files = ready(store)
    proxy.faults = faults
    with pytest.raises(CommitUnknownError, match="it is unknown") as raised:
        land(store, PREDICTIONS, record.run_id, files, attempts=2)
    assert str(raised.value).isprintable(), "one paragraph, without a terminal's colours"
    assert {file.target for file in files} <= keys_of(store, "predictions/")
    assert {file.merged for file in files} <= keys_of(store, "runs/")
    proxy.faults = []
    assert land(store, PREDICTIONS, record.run_id, files) == 1
    assert image_keys_in(store) == sorted(image_keys(8))


@pytest.mark.parametrize("rewrite", ["z_order", "delete"])
def test_a_commit_is_not_made_where_a_file_to_replace_was_rewritten(
    rewrite: str, folder: Lake
) -> None:
    commit_run(folder, image_keys(8))
    old = live_files(folder, PREDICTIONS, ENGINE, DATE)
    record, files = ready(folder)
    rewrite_table(folder, rewrite)
    before = everything(folder, PREDICTIONS)
    with pytest.raises(StaleChangeError, match="were rewritten by another writer, such as an OPT"):
        land(folder, PREDICTIONS, record.run_id, files, replaced=old)
    assert everything(folder, PREDICTIONS) == before
    assert not landed(folder, PREDICTIONS, record.run_id)


def test_what_another_writer_does_right_before_the_log_is_written_is_seen(folder: Lake) -> None:
    """Between reading the table and writing its log: no rebase onto what was not read."""
    commit_run(folder, image_keys(8))
    old = live_files(folder, PREDICTIONS, ENGINE, DATE)
    record, files = ready(folder)
    asked: list[int] = []

    def rewrite_at_last() -> None:
        asked.append(1)
        if len(asked) == len(files) + 1:  # behind the copies: the table was read
            rewrite_table(folder, "z_order")

    with pytest.raises(StaleChangeError):
        land(folder, PREDICTIONS, record.run_id, files, replaced=old, before=rewrite_at_last)
    assert image_keys_in(folder) == sorted(image_keys(8))


@pytest.mark.s3
def test_a_commit_whose_log_entry_another_writer_replaced_is_made_again(
    ignoring_endpoint: str,
) -> None:
    """The store says 200 to both; what it has then decides."""
    store = Lake(f"{new_bucket(ignoring_endpoint)}/store", endpoint_url=ignoring_endpoint)
    record, files = ready(store)
    other, others_files = ready(store, 4, date="2026-11-22")
    stolen: list[int] = []

    class Overtaken(Lake):
        """Lets another date's commit replace the log's entry, right after it was written."""

        def call_with_retry(self, what: str, request: Any) -> Any:
            entry = f"{PREDICTIONS}/_delta_log/00000000000000000001.json"
            if not stolen and store.stat(entry) is not None:
                stolen.append(1)
                store.delete([entry])
                land(store, PREDICTIONS, other.run_id, others_files)
            return super().call_with_retry(what, request)

    land(Overtaken(store.url, endpoint_url=store.endpoint_url), PREDICTIONS, record.run_id, files)
    assert stolen
    assert landed(store, PREDICTIONS, record.run_id)
    assert landed(store, PREDICTIONS, other.run_id)
    assert len(image_keys_in(store)) == 8 + 4
