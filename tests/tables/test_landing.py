"""Rows that are scored again take the place of the earlier ones, file by file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from steel_batch.lake import Lake
from steel_batch.tables.commit import live_files
from steel_batch.tables.query import run_query
from steel_batch.tables.verify import verify
from tests.made_up_run import DATE, ENGINE, commit_run, image_keys, keys_of


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
