"""`gc` finds what nobody needs, and touches nothing that a reader or a run may need."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.lake import Lake, LakeObject, series
from steel_batch.lake.folder import SCRATCH
from steel_batch.lake.lock import CONFIRM_SECONDS, Lease
from steel_batch.runs.record import put_record, put_result, read_run
from steel_batch.tables.gc import Garbage, collect, find_garbage
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import live_files
from steel_batch.tables.verify import verify
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

OTHER_DATE = "2026-11-22"


def garbage(store: Lake) -> dict[str, str]:
    return {item.key: item.reason for item in find_garbage(store)}


def collected(store: Lake) -> set[str]:
    return {item.key for item in collect(store)}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("committed") / "store"
    commit_run(Lake(str(path)), image_keys(8), bad=image_keys(1))
    return path


@pytest.fixture
def store(committed: Path, tmp_path: Path) -> Lake:
    """A store with one landed run."""
    shutil.copytree(committed, tmp_path / "store")
    return Lake(str(tmp_path / "store"))


def rows(store: Lake) -> int:
    return len(run_query(store, "SELECT image_key FROM predictions"))


def test_a_store_whose_runs_ended_well_has_no_garbage(store: Lake) -> None:
    before = keys_of(store)
    assert garbage(store) == {}
    assert collected(store) == set()
    assert keys_of(store) == before


def test_an_empty_store_has_no_garbage(tmp_path: Path) -> None:
    empty = Lake(str(tmp_path / "nothing"))
    assert garbage(empty) == {}
    assert collected(empty) == set()


def left_by_a_landed_run(store: Lake) -> set[str]:
    """What a run leaves that is killed right after its result."""
    run_id = layout.run_id(ENGINE, DATE, 1)
    keys = {layout.shard_file(run_id, 0, "0" * 12), layout.merged_file(run_id, "predictions", 0)}
    for key in keys:
        store.write(key, b"staged")
    return keys


def left_by_an_abandoned_run(store: Lake) -> set[str]:
    """A run was scored and published, then given up for a newer one, which can be continued."""
    abandoned = begin(store, image_keys(4, first=20))
    score_shards(store, abandoned)
    (file,) = merge(store, abandoned)
    store.copy(file.merged, file.target)
    after = begin(store, image_keys(4, first=20), shard_images=2)
    score_shards(store, after)
    prefix = f"runs/{abandoned.run_id}/"
    kept = {"plan.parquet", "run.json", "files/merged.json"}
    return {key for key in keys_of(store, prefix) if key.removeprefix(prefix) not in kept} | {
        file.target
    }


def test_staging_of_landed_and_abandoned_runs_and_orphaned_files_are_found(store: Lake) -> None:
    landed = left_by_a_landed_run(store)
    abandoned = left_by_an_abandoned_run(store)
    orphan = layout.table_file("quarantine", ENGINE, DATE, layout.run_id(ENGINE, DATE, 1), 9)
    store.write(orphan, b"orphan")
    found = garbage(store)
    assert set(found) == landed | abandoned | {orphan}
    assert {found[key] for key in landed} == {"its run landed"}
    assert {reason for key, reason in found.items() if key.startswith("predictions/")} == {
        "in no log"
    }
    assert {
        reason for key, reason in found.items() if key.startswith("runs/") and key not in landed
    } == {"its run was abandoned"}


def test_garbage_is_found_and_deleted_on_any_lake(lake: Lake) -> None:
    commit_run(lake, image_keys(4))
    planted = left_by_a_landed_run(lake)
    planted.add(layout.table_file("predictions", ENGINE, DATE, layout.run_id(ENGINE, DATE, 1), 9))
    for key in planted:
        lake.write(key, b"x")
    before = keys_of(lake)
    assert set(garbage(lake)) == planted
    assert keys_of(lake) == before, "looking deletes nothing"
    assert collected(lake) == planted
    assert without_locks(keys_of(lake)) == without_locks(before) - planted
    assert list(verify(lake)) == []


def without_locks(keys: set[str]) -> set[str]:
    return {key for key in keys if not key.startswith("locks/")}


class Listing(Lake):
    """A lake that keeps the prefixes of its listings."""

    prefixes: list[str]

    def list_objects(self, prefix: str = "") -> Iterator[LakeObject]:
        self.prefixes.append(prefix)
        return super().list_objects(prefix)


def test_runs_with_few_receipts_are_listed_together_and_others_without_their_receipts(
    store: Lake,
) -> None:
    """A bucket lists a thousand objects at a time: of few runs, or of the receipts of one."""
    run = read_run(store, layout.run_id(ENGINE, DATE, 1))
    assert run.record is not None
    assert run.result is not None
    planted = set()
    for day in range(1, 29):
        for month, num_shards in (("2026-09", 2), ("2026-10", 100_000)):
            date = f"{month}-{day:02d}"
            run_id = layout.run_id(ENGINE, date, 1)
            record = replace(run.record, num_shards=num_shards, num_images=num_shards)
            put_record(store, replace(record, run_id=run_id, date=date))
            put_result(store, replace(run.result, run_id=run_id, date=date))
            store.write(layout.receipt_file(run_id, 0), b"{}")
            if day % 9 == 0:
                planted.add(layout.run_file(run_id, "merged/predictions/00000.parquet"))
    for key in planted:
        store.write(key, b"staged")
    listing = Listing(store.url)
    listing.prefixes = []
    assert set(garbage(listing)) == planted
    asked = [prefix for prefix in listing.prefixes if prefix.startswith("runs/")]
    assert [prefix for prefix in asked if prefix.startswith("runs/2026-09")] == ["runs/2026-09"]
    october = [prefix for prefix in asked if prefix.startswith("runs/2026-10")]
    assert len(october) == 2 * 28
    assert all(prefix.endswith(("/shards/", "/merged/")) for prefix in october)


def test_what_a_writer_left_half_written_is_collected_after_a_day(store: Lake) -> None:
    for name, age_hours in (("old", 25), ("new", 23)):
        path = Path(store.url) / SCRATCH / name
        path.write_bytes(b"12345")
        began = path.stat().st_mtime - age_hours * 3600
        os.utime(path, (began, began))
    expected = Garbage(
        key=f"{SCRATCH}/old", bytes=5, reason="its writer left it incomplete", engine="", date=""
    )
    assert list(find_garbage(store)) == [expected]
    assert list(find_garbage(store, engine=ENGINE, date=DATE)) == []
    assert list(collect(store)) == [expected]
    assert [path.name for path in (Path(store.url) / SCRATCH).iterdir()] == ["new"]


def test_garbage_says_its_size_and_place(store: Lake) -> None:
    key = layout.shard_file(layout.run_id(ENGINE, DATE, 1), 0, "0" * 12)
    store.write(key, b"12345")
    assert list(find_garbage(store)) == [
        Garbage(key=key, bytes=5, reason="its run landed", engine=ENGINE, date=DATE)
    ]


def test_what_is_committed_is_kept_and_so_is_what_was_never_ours(store: Lake) -> None:
    planted = left_by_a_landed_run(store) | left_by_an_abandoned_run(store)
    foreign = {
        f"predictions/{layout.partition(ENGINE, DATE)}/somebody.parquet",
        f"predictions/{layout.partition(ENGINE, DATE)}/part-of-mine.parquet",
        layout.table_file("predictions", ENGINE, OTHER_DATE, layout.run_id(ENGINE, DATE, 1), 0),
        "predictions/notes.txt",
        "runs/notes/shards/mine.parquet",
        "registry/severstal/aliases/production/00000001.json",
        "backfills/0123456789ab/2026-11-21.json",
    }
    for key in foreign:
        store.write(key, b"x")
    before = keys_of(store)
    num_rows = rows(store)
    assert collected(store) == planted
    assert without_locks(keys_of(store)) == without_locks(before) - planted
    assert rows(store) == num_rows


def test_a_run_that_can_be_continued_keeps_everything_and_lands(store: Lake) -> None:
    record = begin(store, image_keys(8, first=50))
    score_shards(store, record)
    files = merge(store, record, merge_bytes=1)
    before = keys_of(store)
    assert garbage(store) == {}
    assert collected(store) == set()
    assert without_locks(keys_of(store)) == without_locks(before)
    finish(store, record, files)
    assert rows(store) == 7 + 8


def test_a_run_that_was_killed_between_publishing_and_commit_still_lands(store: Lake) -> None:
    record = begin(store, image_keys(8, first=50))
    score_shards(store, record)
    files = merge(store, record, merge_bytes=1)
    published = {file.target for file in files}
    for file in files:
        store.copy(file.merged, file.target)
    assert collected(store) == published
    finish(store, record, files)
    assert rows(store) == 7 + 8
    assert list(verify(store)) == []


def test_nothing_of_a_live_run_is_touched(store: Lake) -> None:
    """It holds its date's lock, has published and not yet committed; others are cleaned."""
    commit_run(store, image_keys(4), date=OTHER_DATE)
    other = layout.table_file(
        "predictions", ENGINE, OTHER_DATE, layout.run_id(ENGINE, OTHER_DATE, 1), 9
    )
    store.write(other, b"x")
    left_by_a_landed_run(store)
    record = begin(store, image_keys(8, first=50))
    score_shards(store, record)
    (file,) = files = merge(store, record)
    with Lease(store, layout.lock_series(ENGINE, DATE), what="the date"):
        store.copy(file.merged, file.target)
        before = keys_of(store)
        assert collected(store) == {other}
        assert without_locks(keys_of(store)) == without_locks(before) - {other}
    finish(store, record, files)
    assert rows(store) == 7 + 4 + 8


def test_what_lands_while_gc_waits_for_its_turn_is_kept(tmp_path: Path, committed: Path) -> None:
    """Between looking and locking, a run commits the very file that looked orphaned."""
    shutil.copytree(committed, tmp_path / "store")
    record_store = Lake(str(tmp_path / "store"))
    record = begin(record_store, image_keys(4, first=50))
    score_shards(record_store, record)
    (file,) = files = merge(record_store, record)
    record_store.copy(file.merged, file.target)

    class Interrupted(Lake):
        """Lets that run land when the lock is first asked for."""

        landed = False

        def list_objects(self, prefix: str = "") -> Iterator[object]:  # type: ignore[override]
            if prefix.startswith("locks/") and not self.landed:
                self.landed = True
                finish(record_store, record, files)
            return super().list_objects(prefix)

    store = Interrupted(str(tmp_path / "store"))
    assert set(garbage(store)) == {file.target}
    assert collected(store) == set()
    assert store.landed
    assert file.target in {f.key for f in live_files(store, "predictions", ENGINE, DATE)}
    assert list(verify(store)) == []


def test_whoever_lost_the_lock_while_it_looked_deletes_nothing(store: Lake) -> None:
    planted = left_by_a_landed_run(store)
    lock = layout.lock_series(ENGINE, DATE)

    class Suspended(Lake):
        """Stands still under the lock, before it lists a table, and another run takes the lock."""

        def list_objects(self, prefix: str = "") -> Iterator[object]:  # type: ignore[override]
            held = series.latest(store, lock)
            if prefix.startswith("predictions/engine=") and held is not None:
                number, entry = held
                if not (holder := json.loads(entry))["released"]:
                    other = json.dumps(holder | {"token": "another's"}).encode()
                    assert series.put_next(store, lock, number + 1, other)
                    time.sleep(CONFIRM_SECONDS + 0.1)
            return super().list_objects(prefix)

    assert collected(Suspended(store.url)) == set()
    assert planted <= keys_of(store)


def test_a_replaced_file_is_garbage_once_its_successor_is_committed(store: Lake) -> None:
    (before,) = live_files(store, "class_summaries", ENGINE, DATE)
    record = begin(store, image_keys(4, first=50))
    score_shards(store, record)
    copy = store.read(before.key)
    finish(store, record, merge(store, record))
    store.write(before.key, copy)  # as if the run had been killed before its sweep
    assert garbage(store) == {before.key: "in no log"}
    assert collected(store) == {before.key}
    assert list(verify(store)) == []


def test_a_second_collection_finds_nothing(store: Lake) -> None:
    planted = left_by_a_landed_run(store)
    assert collected(store) == planted
    assert collected(store) == set()
