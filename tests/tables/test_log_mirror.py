"""The copy of a table's log: each look at it finds what a reader would find in the store."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch import layout
from steel_batch.answers.open_store import OpenStore
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, LakeObject, ReadRequest
from steel_batch.lake.retry import Retry
from steel_batch.tables.commit import land
from steel_batch.tables.log_mirror import FIRST_LISTED, LogMirror, log_mirror
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import (
    CHECKPOINT_EVERY,
    CLEAN_UP_EVERY,
    SCHEMAS,
    all_live_files,
    ensure_tables,
    landed,
    open_table,
    removed_files,
    write_checkpoints,
)
from tests.conftest import examples
from tests.log_proxy import CONFLICT, log_proxy
from tests.made_up_run import ENGINE, begin, commit_run, image_keys, merge, score_shards

TABLE = layout.PREDICTIONS
LOG = f"{TABLE}/_delta_log/"
DAY_0 = datetime.date(2020, 1, 1)


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "store"))
    ensure_tables(lake)
    return lake


def append(store: Lake, version: int, writer: str, copy: LogMirror | None = None) -> bool:
    """An entry without files after a version, of a writer."""
    return (copy or log_mirror(store, TABLE)).append(
        store, version, [], SCHEMAS[TABLE], app_transactions=[Transaction(writer, 1)],
        metadata={"by": writer},
    )  # fmt: skip


def write_as_another_program(store: Lake, writer: str) -> None:
    DeltaTable(store.uri(TABLE)).create_write_transaction(
        [], "append", SCHEMAS[TABLE], partition_by=["engine", "date"],
        commit_properties=CommitProperties(app_transactions=[Transaction(writer, 1)]),
    )  # fmt: skip


def seen(opened: DeltaTable | None, writers: Sequence[str]) -> tuple[int, list[str]]:
    """A table's version, and which writers have a transaction in it."""
    assert opened is not None
    return opened.version(), [w for w in writers if opened.transaction_version(w) is not None]


class CountingLake(Lake):
    """Counts what is asked of the tables' logs."""

    def __init__(self, url: str, *, endpoint_url: str | None = None) -> None:
        super().__init__(url, endpoint_url=endpoint_url)
        self.num_listings = self.num_reads = 0

    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]:
        self.num_listings += "_delta_log" in prefix
        return super().list_after(prefix, after)

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        self.num_reads += sum("_delta_log" in request.key for request in requests)
        return super().read_many(requests)


# --- looking --------------------------------------------------------------------------------


def test_a_look_at_an_unchanged_log_is_one_listing(store: Lake) -> None:
    counting, copy = CountingLake(store.url), LogMirror(TABLE)
    copy.look(counting)
    counting.num_listings = counting.num_reads = 0
    assert seen(copy.look(counting), ["a"]) == (0, [])
    assert (counting.num_listings, counting.num_reads) == (1, 0)
    write_as_another_program(store, "a")
    assert seen(copy.look(counting), ["a"]) == (1, ["a"])
    assert (counting.num_listings, counting.num_reads) == (2, 1)


@pytest.mark.s3
def test_an_entry_that_was_put_is_not_read_back_unless_another_replaced_it(
    bucket: str, s3_endpoint: str
) -> None:
    store, copy = CountingLake(f"{bucket}/store", endpoint_url=s3_endpoint), LogMirror(TABLE)
    ensure_tables(store)
    copy.look(store)
    assert append(store, 0, "a", copy)
    store.num_reads = 0
    assert seen(copy.look(store), ["a"]) == (1, ["a"])
    assert store.num_reads == 0
    assert append(store, 1, "b", copy)
    theirs = store.read(f"{LOG}{1:020d}.json").replace(b'"a"', b'"c"')
    store.write(f"{LOG}{2:020d}.json", theirs)
    assert seen(copy.look(store), ["a", "b", "c"]) == (2, ["a", "c"])


def test_a_log_of_more_than_a_page_is_listed_from_the_checkpoint_that_it_names(
    store: Lake,
) -> None:
    runs = commit_dates(store, CHECKPOINT_EVERY + 2)
    for number in range(FIRST_LISTED):
        Path(store.uri(f"{LOG}{0:020d}.{number:04}.crc")).touch()
    counting = CountingLake(store.url)
    assert seen(LogMirror(TABLE).look(counting), runs) == (len(runs), runs)
    assert counting.num_listings == 2
    assert counting.num_reads == 2 + 2, "what names the checkpoint, it, and the entries since then"


def test_there_is_no_table_where_there_is_no_log(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "empty"))
    assert LogMirror(TABLE).look(lake) is None
    ensure_tables(lake)
    assert log_mirror(lake, TABLE).look(lake) is not None


def test_an_entry_that_another_replaced_is_not_what_was_copied(store: Lake) -> None:
    copy = LogMirror(TABLE)
    for writer in ("a", "b"):
        write_as_another_program(store, writer)
    assert seen(copy.look(store), ["a", "b", "c"]) == (2, ["a", "b"])
    entry = f"{LOG}{2:020d}.json"
    store.write(entry, store.read(entry).replace(b'"appId":"b"', b'"appId":"c"'))
    assert seen(copy.look(store), ["a", "b", "c"]) == (2, ["a", "c"])


def test_a_table_that_was_opened_stays_as_it_was(store: Lake) -> None:
    """It reads its entries when it is asked, so they must not go with the next copy."""
    copy = LogMirror(TABLE)
    write_as_another_program(store, "a")
    before = copy.look(store)
    DeltaTable(store.uri(TABLE)).create_checkpoint()
    write_as_another_program(store, "b")
    assert seen(copy.look(store), ["a", "b"]) == (2, ["a", "b"])
    assert seen(before, ["a", "b"]) == (1, ["a"])
    folder = Path(str(before.table_uri).removeprefix("file://")) if before is not None else Path()
    assert folder.exists()
    del before
    assert not folder.exists(), "a copy that nobody uses is deleted"


STEPS = ("ours", "another's", "checkpoint", "another's checkpoint", "lost", "replaced", "look")


@settings(max_examples=examples(24))
@given(steps=st.lists(st.sampled_from(STEPS), min_size=4, max_size=12))
def test_a_look_finds_what_a_reader_finds_who_opens_the_table(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Lake(str(tmp_path_factory.mktemp("stores")))
    ensure_tables(store)
    copy = LogMirror(TABLE)
    writers: list[str] = ["another"]
    for step in steps:
        entries = sorted(Path(store.url, LOG).glob("*.json"))
        checkpoints = sorted(Path(store.url, LOG).glob("*.checkpoint.parquet"))
        is_behind = bool(checkpoints) and checkpoints[-1].name[:20] == entries[-1].name[:20]
        if step == "ours":
            writers.append(f"w{len(writers)}")
            opened = copy.look(store)
            assert opened is not None
            assert append(store, opened.version(), writers[-1], copy)
        elif step == "another's":
            writers.append(f"w{len(writers)}")
            write_as_another_program(store, writers[-1])
        elif step == "checkpoint":
            copy.look(store)
            copy.checkpoint(store, 1)
        elif step == "another's checkpoint":
            DeltaTable(store.uri(TABLE)).create_checkpoint()
        elif step == "lost" and len(entries) > 1 and not is_behind:
            entries[-1].unlink()
        elif step == "replaced" and len(entries) > 1 and not is_behind:
            text = entries[-1].read_text().replace('"appId":"w', '"appId":"another-')
            entries[-1].write_text(text)
            writers.extend(f"another-{number}" for number in range(len(writers)))
        elif step == "look":
            copy.look(store)
    assert seen(copy.look(store), writers) == seen(DeltaTable(store.uri(TABLE)), writers)


# --- writing --------------------------------------------------------------------------------


def test_of_writers_after_one_version_one_succeeds(lake: Lake) -> None:
    """Each has a copy of its own, as processes have."""
    ensure_tables(lake)
    start, written = threading.Barrier(4), []

    def write(writer: str) -> None:
        copy = LogMirror(TABLE)
        copy.look(lake)
        start.wait()
        if append(lake, 0, writer, copy):
            written.append(writer)

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    writers = [f"w{number}" for number in range(4)]
    assert seen(open_table(lake, TABLE), writers) == (1, written)


def test_nothing_is_written_after_a_version_that_is_not_the_newest(store: Lake) -> None:
    copy = log_mirror(store, TABLE)
    copy.look(store)
    write_as_another_program(store, "a")
    copy.look(store)
    assert not append(store, 0, "b", copy)
    assert seen(open_table(store, TABLE), ["a", "b"]) == (1, ["a"])


@pytest.mark.s3
def test_a_refusal_that_no_entry_explains_is_an_unknown_outcome(
    s3_endpoint: str, bucket: str
) -> None:
    """An earlier request, whose answer was lost, may still arrive."""
    with log_proxy(s3_endpoint) as (proxy, url):
        lake = Lake(f"{bucket}/store", endpoint_url=url, retry=Retry(total_seconds=0.4))
        ensure_tables(lake)
        log_mirror(lake, TABLE).look(lake)
        proxy.faults = [CONFLICT]
        with pytest.raises(LakeError, match="as if it existed, but it does not"):
            append(lake, 0, "a")
        proxy.faults = []
        assert append(lake, 0, "a")


def test_an_entry_is_what_deltalake_writes(store: Lake) -> None:
    """Readers and other writers see no difference; the entry is not in the copy before a look."""
    copy = LogMirror(TABLE)
    copy.look(store)
    assert append(store, 0, "a", copy)
    lines = [json.loads(line) for line in store.read(f"{LOG}{1:020d}.json").splitlines()]
    (info,) = [line["commitInfo"] for line in lines if "commitInfo" in line]
    assert info["operation"] == "WRITE"
    assert info["by"] == "a"
    assert not append(store, 1, "b", copy), "version 1 was not looked at yet"


# --- checkpoints ----------------------------------------------------------------------------


def commit_dates(store: Lake, num: int, *, first: int = 1) -> list[str]:
    """Commit one file for each of some dates, as a run does; the runs' ids."""
    record = begin(store, image_keys(2), date=str(DAY_0 + datetime.timedelta(days=first)))
    score_shards(store, record)
    (file,) = merge(store, record)
    found = []
    for day in range(first, first + num):
        date = str(DAY_0 + datetime.timedelta(days=day))
        run_id = layout.run_id(ENGINE, date, 1)
        target = layout.table_file(TABLE, ENGINE, date, run_id, 0)
        land(store, TABLE, run_id, [dataclasses.replace(file, target=target)])
        write_checkpoints(store)
        found.append(run_id)
    return found


def checkpoints(store: Lake, table: str = TABLE) -> list[str]:
    return sorted(path.name for path in Path(store.uri(table), "_delta_log").glob("*.parquet"))


def test_a_checkpoint_is_written_every_ten_commits_and_no_history_is_lost(store: Lake) -> None:
    runs = commit_dates(store, 2 * CHECKPOINT_EVERY + 3)
    assert checkpoints(store) == [f"{number:020d}.checkpoint.parquet" for number in (10, 20)]
    assert all(landed(store, TABLE, run_id) for run_id in runs)
    opened = DeltaTable(store.uri(TABLE))
    assert all(opened.transaction_version(run_id) == 1 for run_id in runs)
    assert len(opened.history()) == len(runs) + 1
    for version in (0, 7, 10, 19, len(runs)):
        opened.load_as_version(version)
        assert len(opened.file_uris()) == version
    with OpenStore(store, as_of="7") as then:
        assert then.sql(f"SELECT count(*) FROM {TABLE}").fetchall() == [(14,)]
    assert len(run_query(store, f"SELECT * FROM {TABLE}")) == 2 * len(runs)


def test_what_a_run_asks_of_the_logs_does_not_grow_with_the_commits(store: Lake) -> None:
    """Though each process begins without a copy."""
    found: list[tuple[int, int]] = []
    for num in (CHECKPOINT_EVERY + 1, 2 * CHECKPOINT_EVERY):
        commit_dates(store, num, first=1000 * len(found))
        counting = CountingLake(f"{store.url}/../{Path(store.url).name}")  # has no copy yet
        commit_run(counting, image_keys(2), date=str(DAY_0 - datetime.timedelta(days=num)))
        found.append((counting.num_listings, counting.num_reads))
    (few, few_reads), (many, many_reads) = found
    assert many == few <= 13
    assert abs(many_reads - few_reads) <= CHECKPOINT_EVERY


def test_a_run_is_committed_where_no_checkpoint_can_be_written(
    store: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Lake):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            if "checkpoint" in key:
                raise LakeError(f"{self.uri(key)}: the store answers 403.")
            return super().put_if_absent(key, data)

    commit_dates(store, CHECKPOINT_EVERY - 1)
    result = commit_run(Refusing(store.url), image_keys(2))
    assert "no checkpoint of" in caplog.text
    assert landed(store, TABLE, str(result.run_id))
    assert checkpoints(store) == []
    commit_run(store, image_keys(2), date="2026-12-01")
    assert checkpoints(store) == [f"{CHECKPOINT_EVERY + 1:020d}.checkpoint.parquet"]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose next entry but one is the hundredth, with files of two dates."""
    store = Lake(str(tmp_path_factory.mktemp("grown") / "store"))
    ensure_tables(store)
    commit_dates(store, 2)
    for version in range(open_table(store, TABLE).version(), CLEAN_UP_EVERY - 2):
        log_mirror(store, TABLE).look(store)
        assert append(store, version, "a")
    return Path(store.url)


@pytest.mark.parametrize("is_kept", [False, True])
def test_old_entries_are_cleaned_up_every_hundred_as_deltalake_does(
    is_kept: bool, grown: Path, tmp_path: Path
) -> None:
    store = Lake(str(shutil.copytree(grown, tmp_path / "store")))
    if is_kept:
        off = {"delta.enableExpiredLogCleanup": "false"}
        DeltaTable(store.uri(TABLE)).alter.set_table_properties(off)
    else:
        log_mirror(store, TABLE).look(store)
        assert append(store, CLEAN_UP_EVERY - 2, "a")
    before = sorted(Path(store.url, LOG).glob("*.json"))
    for path in Path(store.url, LOG).iterdir():
        os.utime(path, (0, 0))
    (run_id,) = commit_dates(store, 1, first=100)
    left = [path.exists() for path in before].count(True)
    assert left == (len(before) if is_kept else 0)
    opened = DeltaTable(store.uri(TABLE))
    assert (opened.version(), len(opened.file_uris())) == (CLEAN_UP_EVERY, 3)
    assert landed(store, TABLE, run_id)
    with OpenStore(store, as_of=str(CLEAN_UP_EVERY)) as then:
        assert then.sql(f"SELECT count(*) FROM {TABLE}").fetchall() == [(6,)]


def test_files_that_were_removed_are_known_when_a_checkpoint_forgot_them(store: Lake) -> None:
    """It forgets removals of more than a week ago."""
    commit_dates(store, 3)
    before = {file.key for file in all_live_files(store, TABLE)}
    DeltaTable(store.uri(TABLE)).optimize.z_order(["image_key"])
    gone = before - {file.key for file in all_live_files(store, TABLE)}
    assert gone
    entry = max(Path(store.url, LOG).glob("*.json"))
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "remove" in action:
            action["remove"]["deletionTimestamp"] = 1
    entry.write_text("\n".join(map(json.dumps, actions)) + "\n")
    DeltaTable(store.uri(TABLE)).create_checkpoint()
    vacuumed = DeltaTable(store.uri(TABLE)).vacuum(
        retention_hours=0, dry_run=True, enforce_retention_duration=False
    )
    assert not vacuumed, "deltalake has forgotten them"
    assert removed_files(store, TABLE) == gone


def test_a_checkpoint_is_of_what_the_store_has(store: Lake) -> None:
    """Not of an entry that was copied and then replaced: it would hide the other one for good."""
    record = begin(store, image_keys(2))
    score_shards(store, record)
    land(store, TABLE, record.run_id, merge(store, record))
    entry = f"{LOG}{1:020d}.json"
    replaced: list[Any] = [{"commitInfo": {"timestamp": 1, "operation": "WRITE"}}]
    store.write(entry, ("\n".join(map(json.dumps, replaced)) + "\n").encode())
    assert not landed(store, TABLE, record.run_id)
    for number in range(CHECKPOINT_EVERY):
        write_as_another_program(store, f"w{number}")
    all_live_files(store, TABLE)
    write_checkpoints(store)
    assert list(Path(store.url, LOG).glob("*.checkpoint.parquet"))
    assert not landed(store, TABLE, record.run_id)
    assert DeltaTable(store.uri(TABLE)).transaction_version(record.run_id) is None
