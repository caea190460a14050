"""Rows that are scored again take the place of the earlier ones, file by file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.lake import Lake, LakeObject
from steel_batch.tables.file_lists import save_files
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


def writers(store: Lake) -> dict[str, str]:
    """Per image the run that wrote its row; each has one."""
    rows = run_query(store, "SELECT image_key, run_id FROM predictions").to_pylist()
    assert len({row["image_key"] for row in rows}) == len(rows)
    return {row["image_key"]: row["run_id"] for row in rows}


def live(store: Lake) -> dict[str, int]:
    """Rows of each file of the predictions, in order."""
    return {f.key: f.num_rows for f in live_files(store, "predictions", ENGINE, DATE)}


def test_files_are_left_rewritten_or_removed_by_what_is_planned_of_them(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    keys = sorted(image_keys(16))  # four shards of four, each a file
    first = commit_run(store, keys, merge_bytes=1)
    before = {key: store.read(key) for key in live(store)}
    again = [*keys[4:8], *keys[9:11], "3/late.jpg"]  # all of one file, some of the next, a new one
    second = commit_run(store, again, retry_quarantined=True)
    assert writers(store) == {
        **dict.fromkeys(keys, first.run_id),
        **dict.fromkeys(again, second.run_id),
    }
    after = live(store)
    one, two, three, four = before
    assert {key: after[key] for key in (one, four)} == {one: 4, four: 4}
    assert not {two, three} & after.keys()
    assert sorted(after[key] for key in after.keys() - before.keys()) == [2, 7]
    assert store.read(one) == before[one]
    assert list(verify(store)) == []


def test_a_first_run_has_nothing_to_replace(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    result = commit_run(store, image_keys(4), retry_quarantined=True)
    assert set(writers(store).values()) == {result.run_id}


class WatchedLake(Lake):
    """Notes what readers of the plain files see when a summary is written."""

    def open_output(self, key: str) -> AbstractContextManager[BinaryIO]:
        if "/merged/class_summaries/" in key:
            self.seen = keys_of(self, "predictions/engine=")
        return super().open_output(key)


def test_replaced_files_are_deleted_before_the_next_table_is_made(tmp_path: Path) -> None:
    store = WatchedLake(str(tmp_path))
    commit_run(store, image_keys(8))
    commit_run(store, image_keys(4), retry_quarantined=True)
    assert store.seen == set(live(store))


class RewrittenLake(Lake):
    """Somebody compacts a table while its new rows are being made, a few times."""

    table = "predictions"
    num_left = 1

    def open_output(self, key: str) -> AbstractContextManager[BinaryIO]:
        if f"/merged/{self.table}/" in key and self.num_left:
            self.num_left -= 1
            column = "class_id" if self.table == "class_summaries" else "image_key"
            DeltaTable(self.uri(self.table)).optimize.z_order([column])
        return super().open_output(key)


@pytest.mark.parametrize("table", layout.TABLES)
def test_rows_are_made_again_where_somebody_compacts_the_table_meanwhile(
    table: str, tmp_path: Path
) -> None:
    keys = image_keys(8)
    store = RewrittenLake(str(tmp_path))
    store.num_left = 0
    commit_run(store, keys, bad=keys[:3])
    store.table, store.num_left = table, 2
    commit_run(store, keys[1:6], retry_quarantined=True, bad=keys[1:2])
    assert store.num_left == 0
    assert sorted(writers(store)) == sorted(keys[2:])
    entries = run_query(store, "SELECT image_key FROM quarantine ORDER BY 1")
    assert entries["image_key"].to_pylist() == sorted(keys[:2])
    assert list(verify(store)) == []


def test_a_run_that_is_continued_publishes_under_names_that_none_has(tmp_path: Path) -> None:
    """Who deletes what its first attempt left, however late, deletes nothing that is committed."""
    store = Lake(str(tmp_path))
    record = begin(store, image_keys(4))
    score_shards(store, record)
    (file,) = files = merge(store, record)
    save_files(store, record.run_id, "predictions", files)
    store.copy(file.merged, file.target)  # and its driver was killed
    finish(store, record, files)
    (live,) = live_files(store, "predictions", ENGINE, DATE)
    assert live.key != file.target
    assert layout.split_table_file(live.key) == (record.run_id, 0, 1)
    assert store.stat(file.target) is None
    store.delete([file.target])
    assert list(verify(store)) == []


@pytest.mark.parametrize("table", layout.TABLES)
def test_a_log_entry_that_is_lost_before_the_result_is_written_again(
    table: str, tmp_path: Path
) -> None:
    class Losing(Lake):
        """Loses the newest entry of a table's log when the tables are looked at for the last time.

        By then a sweep has listed the quarantine, which is the last table.
        """

        num_left = 1
        is_last = False

        def list_objects(self, prefix: str = "") -> Iterator[LakeObject]:
            self.is_last |= prefix.startswith("quarantine/engine=")
            return super().list_objects(prefix)

        def call_with_retry(self, what: str, request: Any) -> Any:
            if self.is_last and self.num_left and what == self.uri("predictions"):
                self.num_left -= 1
                log = Path(self.url) / table / "_delta_log"
                max(log.glob("*.json")).unlink()
            return super().call_with_retry(what, request)

    store = Losing(str(tmp_path))
    keys = image_keys(6)
    commit_run(store, keys, bad=keys[:2])
    assert store.num_left == 0
    assert sorted(writers(store)) == sorted(keys[2:])
    assert list(verify(store)) == []
