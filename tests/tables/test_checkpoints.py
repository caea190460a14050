"""Checkpoints and clean-ups of a table's log lose nothing, and bound what a run reads."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.answers.open_store import OpenStore
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.log_mirror import FIRST_LISTED, LogMirror, log_mirror
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import (
    CHECKPOINT_EVERY,
    CLEAN_UP_EVERY,
    all_live_files,
    ensure_tables,
    landed,
    open_table,
    removed_files,
    write_checkpoints,
)
from tests.made_up_run import ENGINE, begin, commit_run, image_keys, merge, score_shards
from tests.tables.conftest import empty_store
from tests.tables.logs import LOG, TABLE, CountingLake, append, seen, write_as_another_program

store = empty_store

DAY_0 = datetime.date(2020, 1, 1)


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
